package gateway_test

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"sluice/gateway"
)

var update = flag.Bool("update", false, "write what the code says over the files that it is compared with")

// The contract in the repository is the one that the code serves, so a reviewer sees each change of it.
func TestContract(t *testing.T) {
	t.Parallel()
	const file = "../openapi/gateway.yaml"
	doc, err := gateway.Document()
	ok(t, err)
	if *update {
		ok(t, os.WriteFile(file, doc, 0o644))
	}
	kept, err := os.ReadFile(file)
	ok(t, err)
	if !bytes.Equal(kept, doc) {
		t.Error("the contract has changed: go test ./gateway -run TestContract -update, and review the difference")
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
