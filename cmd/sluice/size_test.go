package main

import "testing"

func TestByteSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]byteSize{
		"1": 1, "65536": 65536, "64KiB": 64 << 10, "256MiB": 256 << 20, "256 MiB": 256 << 20, "8GiB": 8 << 30, "9223372036854775807": 1<<63 - 1,
	} {
		var got byteSize
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q is %d (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1MiB", "1.5GiB", "MiB", "256MB", "256M", "9223372036854775808", "9007199254740992KiB", "1KiBMiB"} {
		var got byteSize
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken for %d bytes", text, got)
		}
	}
}
