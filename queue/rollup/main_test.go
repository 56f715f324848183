package rollup

import (
	"testing"

	"sluice/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
