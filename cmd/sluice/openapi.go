package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/goccy/go-yaml"

	"sluice/gateway"
	"sluice/openapi"
	"sluice/queue/topology"
)

type openapiCmd struct {
	Document string `arg:"" optional:"" enum:"api,worker,topology" default:"api" help:"Which: api is the OpenAPI of the HTTP API, worker that of workers, topology the JSON Schema of topology files."`
}

func (openapiCmd) Help() string {
	return examples("They need no running Sluice. OpenAPI is printed as YAML, or with --output json as JSON.",
		"sluice openapi > api.yaml",
		"sluice openapi worker --output json",
		"sluice openapi topology > topology.schema.json")
}

func (c openapiCmd) Run(p *program) error {
	var doc []byte
	var err error
	switch c.Document {
	case "topology":
		_, err = p.stdout.Write(topology.JSONSchema())
		return err
	case "worker":
		doc = openapi.Worker()
	default:
		doc, err = gateway.Document()
	}
	if err == nil && p.output == "json" {
		doc, err = toJSON(doc)
	}
	if err != nil {
		return fmt.Errorf("write the document: %w", err)
	}
	_, err = p.stdout.Write(doc)
	return err
}

func toJSON(doc []byte) ([]byte, error) {
	doc, err := yaml.YAMLToJSON(doc)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = json.Indent(&b, doc, "", "  ")
	b.WriteByte('\n')
	return b.Bytes(), err
}
