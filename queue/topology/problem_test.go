package topology

import (
	"testing"

	"pgregory.net/rapid"
)

// The narrow band gives the same answer as the whole table, up to the limit.
func TestSlips(t *testing.T) {
	t.Parallel()
	word := rapid.StringMatching(`[abcAB_-]{0,12}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b, limit := word.Draw(t, "a"), word.Draw(t, "b"), rapid.IntRange(1, 4).Draw(t, "limit")
		if got, want := slips(a, b, limit), min(limit, allSlips(a, b)); got != want {
			t.Fatalf("%d slips from %q to %q, not %d", want, a, b, got)
		}
	})
}

// allSlips fills the whole table.
func allSlips(a, b string) int {
	table := make([][]int, len(a)+1)
	for i := range table {
		table[i] = make([]int, len(b)+1)
		for j := range table[i] {
			switch {
			case i == 0 || j == 0:
				table[i][j] = i + j
				continue
			case sameLetter(a[i-1], b[j-1]):
				table[i][j] = table[i-1][j-1]
			default:
				table[i][j] = 1 + min(table[i-1][j-1], table[i-1][j], table[i][j-1])
			}
			if i > 1 && j > 1 && sameLetter(a[i-1], b[j-2]) && sameLetter(a[i-2], b[j-1]) {
				table[i][j] = min(table[i][j], table[i-2][j-2]+1)
			}
		}
	}
	return table[len(a)][len(b)]
}
