package openapi

import (
	_ "embed"
	"slices"
)

//go:embed worker.yaml
var worker []byte

// Worker returns the contract that a worker serves, as YAML. It is written by hand, beside docs/worker-protocol.md, and
// held against the code of both sides by a test of package gateway.
func Worker() []byte { return slices.Clone(worker) }
