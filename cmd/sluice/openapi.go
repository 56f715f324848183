package main

import (
	"fmt"

	"sluice/queue/topology"
)

type openapiCmd struct {
	Document string `arg:"" optional:"" enum:"topology" default:"topology" help:"Which: topology is the JSON Schema of topology files."`
}

func (openapiCmd) Help() string {
	return examples("", "sluice openapi topology > topology.schema.json")
}

func (openapiCmd) Run(p *program) error {
	_, err := fmt.Fprintf(p.stdout, "%s", topology.JSONSchema())
	return err
}
