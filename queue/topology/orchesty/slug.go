package orchesty

import "strings"

const maxName = 63

// slug makes a name of ours out of any text: Get_Orders and getOrders become
// get-orders. It is empty if there is nothing to make one of, and is what it was if
// that is a name already.
func slug(text string) string {
	var b strings.Builder
	gap, lower := false, false
	for _, r := range text {
		upper := r >= 'A' && r <= 'Z'
		if !upper && !isLower(r) && !isDigit(r) {
			gap, lower = true, false
			continue
		}
		if (gap || upper && lower) && b.Len() > 0 {
			b.WriteByte('-')
		}
		if upper {
			r += 'a' - 'A'
		}
		if b.WriteRune(r); b.Len() >= maxName {
			break
		}
		gap, lower = false, !upper
	}
	return strings.TrimRight(b.String()[:min(b.Len(), maxName)], "-")
}

func isLower(r rune) bool { return r >= 'a' && r <= 'z' }
func isDigit(r rune) bool { return r >= '0' && r <= '9' }
