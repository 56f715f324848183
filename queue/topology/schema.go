package topology

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// JSONSchema is the schema (2020-12) of the file format, for editors and other
// tools. It knows the bounds and the shape; that the graph hangs together only
// Parse can tell. It is built from what Parse itself goes by.
func JSONSchema() []byte {
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	_ = out.Encode(fileSchema()) // texts and numbers of ours, which always encode
	return b.Bytes()
}

// schema holds the words of JSON Schema that the format needs.
type schema struct {
	Schema               string     `json:"$schema,omitempty"`
	Title                string     `json:"title,omitempty"`
	Description          string     `json:"description,omitempty"`
	Type                 string     `json:"type,omitempty"`
	Const                any        `json:"const,omitempty"`
	Enum                 []string   `json:"enum,omitempty"`
	Pattern              string     `json:"pattern,omitempty"`
	MaxLength            int        `json:"maxLength,omitempty"`
	Minimum              any        `json:"minimum,omitempty"`
	Maximum              any        `json:"maximum,omitempty"`
	Required             []string   `json:"required,omitempty"`
	Properties           properties `json:"properties,omitempty"`
	PropertyNames        *schema    `json:"propertyNames,omitempty"`
	AdditionalProperties any        `json:"additionalProperties,omitempty"` // false or a schema
	MinProperties        int        `json:"minProperties,omitempty"`
	MaxProperties        int        `json:"maxProperties,omitempty"`
	Items                *schema    `json:"items,omitempty"`
	MinItems             int        `json:"minItems,omitempty"`
	MaxItems             int        `json:"maxItems,omitempty"`
	UniqueItems          bool       `json:"uniqueItems,omitempty"`
	AllOf                []schema   `json:"allOf,omitempty"`
	If                   *schema    `json:"if,omitempty"`
	Then                 *schema    `json:"then,omitempty"`
	Not                  *schema    `json:"not,omitempty"`
	AnyOf                []schema   `json:"anyOf,omitempty"`
	Default              any        `json:"default,omitempty"`
	Examples             []any      `json:"examples,omitempty"`
}

// properties keep their order, which is the one that editors offer them in.
type properties []property

type property struct {
	name   string
	schema schema
}

// MarshalJSON writes an object.
func (p properties) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, property := range p {
		before := byte(',')
		if i == 0 {
			before = '{'
		}
		name, err := json.Marshal(property.name)
		if err != nil {
			return nil, err
		}
		body, err := json.Marshal(property.schema)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%c%s:%s", before, name, body)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func fileSchema() schema {
	return schema{
		Schema:      "https://json-schema.org/draft/2020-12/schema",
		Title:       "Sluice topology",
		Description: "A graph of nodes that events flow through, as YAML or JSON.",
		Type:        "object",
		Required:    []string{"topology", "nodes"},
		Properties: properties{
			{"$schema", schema{Type: "string", Description: "Where this schema is, for editors. Sluice does not read it."}},
			{"topology", nameSchema("Name of the topology. All its versions have it in common.", "orders")},
			{"description", schema{
				Type: "string", MaxLength: maxDescription, Pattern: `^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$`,
				Description: "What the topology is for, in a line or a few.",
				Examples:    []any{"Orders from the shop to the CRM"},
			}},
			{"bounds", boundsSchema()},
			{"entities", entitiesSchema()},
			{"nodes", schema{
				Type: "object", MinProperties: 1, MaxProperties: MaxNodes,
				Description:          "The nodes by name. At least one is a start node, all others can be reached from one, and no node leads back to itself.",
				PropertyNames:        &schema{Pattern: nameSyntax, MaxLength: maxName},
				AdditionalProperties: nodeSchema(),
			}},
		},
		AdditionalProperties: false,
		Examples: []any{map[string]any{
			"topology": "orders",
			"nodes": map[string]any{
				"inbox": map[string]any{"kind": "start", "followers": []string{"check"}},
				"check": map[string]any{"kind": "custom", "worker": "shop", "timeout": "30s"},
			},
		}},
	}
}

func boundsSchema() schema {
	return schema{
		Type:        "object",
		Description: "The most that the topology may have open, in all its versions together, before its producers are asked to wait (429).",
		Properties: properties{
			{"messages", schema{
				Type: "integer", Minimum: messagesBounds.least, Maximum: messagesBounds.most,
				Description: "Messages that wait, run, are held or are to be retried. Without it, or with 0, there is no bound.",
				Examples:    []any{100000},
			}},
			{"bytes", schema{
				Description: "The bodies of these messages: a number of bytes, or one with its unit (KiB, MiB, GiB). Without it, or with 0, there is no bound.",
				AnyOf: []schema{
					{Type: "integer", Minimum: bytesBounds.least, Maximum: bytesBounds.most},
					{Type: "string", Pattern: sizeSyntax},
				},
				Examples: []any{"1GiB", "512MiB", 1073741824},
			}},
		},
		AdditionalProperties: false,
		Examples:             []any{map[string]any{"messages": 100000, "bytes": "1GiB"}},
	}
}

func nodeSchema() schema {
	var kindText []string
	for _, k := range kinds {
		kindText = append(kindText, fmt.Sprintf("%s %s", k.kind, k.means))
	}
	return schema{
		Type:     "object",
		Required: []string{"kind"},
		Properties: properties{
			{"kind", schema{
				Type: "string", Enum: kindNames(),
				Description: "What happens at the node: " + strings.Join(kindText, "; ") + ".",
			}},
			{"worker", nameSchema("Name of the registered worker that the node calls.", "shop")},
			{"action", schema{
				Type: "string", Pattern: actionSyntax, MaxLength: maxAction,
				Description: "Path on the worker, without a slash in front. By default the name of the node.",
				Examples:    []any{"check-order", "v2/orders/check"},
			}},
			{"application", nameSchema("The third party that the node talks to. What it allows in a time is shared by all nodes that name it.", "hubspot")},
			{"timeout", durationSchema("How long one call of the worker may take", timeoutBounds, defaultTimeout)},
			{"concurrency", schema{
				Type: "integer", Minimum: concurrencyBounds.least, Maximum: concurrencyBounds.most,
				Description: "How many calls of the node may run at once, on all servers together. With 1 its messages are worked strictly in order. Without it the engine decides.",
				Examples:    []any{20},
			}},
			{"order_by", schema{
				Type: "string", Pattern: orderBySyntax, MaxLength: maxOrderBy,
				Description: "Messages with the same key are worked one after the other, as they came: the name of a header, or the path to one value of a JSON body, which begins with $ (a singular query of RFC 9535).",
				Examples:    []any{"customer-id", "$.order.customer.id", "$.lines[0].sku", "$['odd name']"},
			}},
			{"retry", retrySchema()},
			{"title", schema{
				Type: "string", MaxLength: maxTitle, Pattern: `^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x20\x7f-\xa0][^\x00-\x1f\x7f-\x9f]*$`,
				Description: "What a message that a breakpoint parks is called, for people: text with headers and values of a JSON body in braces; {{ and }} are braces.",
				Examples:    []any{"Order {$.order.id} of {customer-id}"},
			}},
			{"due", schema{
				Type: "string", Pattern: durationSyntax,
				Description: fmt.Sprintf("Within which time somebody should decide about a message that a breakpoint parks: a number with its unit, %s. When it is over, the message is shown as overdue; nothing else happens.", dueBounds),
				Examples:    []any{"8h", "72h"},
			}},
			{"may_act", schema{
				Type: "array", MinItems: 1, MaxItems: maxActors, UniqueItems: true, Items: &schema{Type: "string", MaxLength: maxActor},
				Description: "The names of the API keys that may approve, edit or reject what the breakpoint parks. Without it all may that may decide about the trash.",
				Examples:    []any{[]string{"ann", "bob"}},
			}},
			{"followers", schema{
				Type: "array", UniqueItems: true, Items: &schema{Type: "string", Pattern: nameSyntax, MaxLength: maxName},
				Description: "The nodes that get what comes out of this one. Without any, messages are done here.",
				Examples:    []any{[]string{"store", "audit"}},
			}},
		},
		AdditionalProperties: false,
		AllOf:                kindRules(),
	}
}

// kindRules say what the kind of a node asks for and rules out.
func kindRules() []schema {
	var rules []schema
	for _, k := range kinds {
		then, none := schema{}, schema{}
		refuse := func(fields ...string) {
			for _, field := range fields {
				none.AnyOf = append(none.AnyOf, schema{Required: []string{field}})
			}
		}
		if k.callsWorker {
			then.Required = []string{"worker"}
		} else {
			refuse(callingFields...)
		}
		if k.kind == Start {
			then.Required = []string{"followers"}
			then.Properties = properties{{"followers", schema{MinItems: 1}}}
		}
		if k.kind != Breakpoint {
			refuse(parkingFields...)
		}
		if !k.application {
			refuse("application")
		}
		then.Not = &none
		rules = append(rules, schema{
			If:   &schema{Required: []string{"kind"}, Properties: properties{{"kind", schema{Const: string(k.kind)}}}},
			Then: &then,
		})
	}
	return rules
}

func retrySchema() schema {
	d := defaultRetry
	return schema{
		Type:        "object",
		Description: "What happens after a call that may succeed later.",
		Properties: properties{
			{"attempts", schema{
				Type: "integer", Minimum: attemptsBounds.least, Maximum: attemptsBounds.most, Default: d.Attempts,
				Description: "How many calls a message gets before it goes to the trash.",
			}},
			{"initial", durationSchema("How long to wait after the first call", initialBounds, d.Initial)},
			{"factor", schema{
				Type: "number", Minimum: factorBounds.least, Maximum: factorBounds.most, Default: d.Factor,
				Description: "How many times longer each wait is than the one before.",
			}},
			{"max", durationSchema("The longest wait; at least as long as initial", maxBounds, d.Max)},
			{"jitter", schema{
				Type: "number", Minimum: jitterBounds.least, Maximum: jitterBounds.most, Default: d.Jitter,
				Description: "The share by which a wait is made longer or shorter at random, so that messages do not come back all at once.",
			}},
			{"retry_after", schema{
				Type: "string", Enum: []string{string(RetryAfterHonour), string(RetryAfterIgnore)}, Default: string(d.RetryAfter),
				Description: "Whether to wait as long as the worker asks for in Retry-After.",
			}},
			{"outage", schema{
				Type: "string", Enum: []string{string(OutageWait), string(OutageCount)}, Default: string(d.Outage),
				Description: "Whether calls of a worker that cannot be reached use up attempts: with wait they do not, the messages stay until it is back.",
			}},
		},
		AdditionalProperties: false,
		Examples:             []any{map[string]any{"attempts": 5, "initial": "2s", "max": "1h"}},
	}
}

func nameSchema(description, example string) schema {
	return schema{Type: "string", Pattern: nameSyntax, MaxLength: maxName, Description: description, Examples: []any{example}}
}

func durationSchema(description string, within extent[Duration], standard Duration) schema {
	return schema{
		Type: "string", Pattern: durationSyntax, Default: standard.String(),
		Description: fmt.Sprintf("%s: a number with its unit (ms, s, m, h), %s to %s.", description, within.least, within.most),
		Examples:    []any{"500ms", "30s", "5m", "1h"},
	}
}
