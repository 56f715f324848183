package main

import "testing"

func TestBelowContainer(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]int64{"max\n": 1000, "500\n": 400, "100000\n": 1000, "": 1000, "-1\n": 1000} {
		if got := belowContainer(1000, said); got != want {
			t.Errorf("with %q: got %d, want %d", said, got, want)
		}
	}
}
