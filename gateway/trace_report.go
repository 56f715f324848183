package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
	"sluice/queue/process"
)

// What a report of a trace has at most, and what it is signed as: a signature of something else is none of a report.
const (
	reportedCalls = 5000
	reportPage    = 500
	reportContext = "sluice trace 1\n"
	reportPurpose = "trace"
)

// Report is the history of an entity, to be given to somebody else.
type Report struct {
	Entity    string     `json:"entity"`
	MadeAt    time.Time  `json:"made_at"`
	MadeBy    string     `json:"made_by"`
	Truncated bool       `json:"truncated"` // there is more than the calls that are told
	Calls     []CallView `json:"calls"`
}

// reportSignature ends a report.
type reportSignature struct {
	Algorithm string `json:"algorithm"`
	PublicKey string `json:"public_key"`
	Signature string `json:"signature"`
}

type signedReport struct {
	Report    json.RawMessage `json:"report"`
	Signature reportSignature `json:"signature"`
}

// Around the signature of a page, which is signed as it is up to there.
const (
	pageSignatureBegin = "\n<!-- sluice-signature "
	pageSignatureEnd   = " -->\n"
)

// ErrNotSigned is returned by [VerifyReport] for what is no report, or was changed after it was signed, or was signed with
// another key.
var ErrNotSigned = errors.New("it is not as it was signed")

// VerifyReport tells whether a report, JSON or HTML, is as it was signed with one of the keys, and with which. A report
// names the key itself, so the keys must come from somewhere else.
func VerifyReport(report []byte, publicKeys []string) (publicKey string, err error) {
	var signed []byte
	var by reportSignature
	if body, signature, isPage := bytes.Cut(report, []byte(pageSignatureBegin)); isPage {
		rest, ends := bytes.CutSuffix(signature, []byte(pageSignatureEnd))
		if !ends || json.Unmarshal(rest, &by) != nil {
			return "", ErrNotSigned
		}
		signed = body
	} else {
		var r signedReport
		d := json.NewDecoder(bytes.NewReader(report))
		d.DisallowUnknownFields()
		if d.Decode(&r) != nil || d.More() {
			return "", ErrNotSigned
		}
		signed, by = r.Report, r.Signature
	}
	key, err1 := base64.StdEncoding.DecodeString(by.PublicKey)
	signature, err2 := base64.StdEncoding.DecodeString(by.Signature)
	if err1 != nil || err2 != nil || len(key) != ed25519.PublicKeySize || !slices.Contains(publicKeys, by.PublicKey) ||
		!ed25519.Verify(key, append([]byte(reportContext), signed...), signature) {
		return "", ErrNotSigned
	}
	return by.PublicKey, nil
}

// render writes a report in a format and signs it.
func (r Report) render(format string, key ed25519.PrivateKey) ([]byte, error) {
	var out bytes.Buffer
	if format == "html" {
		if err := reportPageTemplate.Execute(&out, r); err != nil {
			return nil, err
		}
		signature, err := json.Marshal(signatureOf(out.Bytes(), key))
		if err != nil {
			return nil, err
		}
		out.WriteString(pageSignatureBegin)
		out.Write(signature)
		out.WriteString(pageSignatureEnd)
		return out.Bytes(), nil
	}
	report, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return json.Marshal(signedReport{Report: report, Signature: signatureOf(report, key)})
}

func signatureOf(report []byte, key ed25519.PrivateKey) reportSignature {
	return reportSignature{
		Algorithm: "Ed25519", PublicKey: publicText(key),
		Signature: base64.StdEncoding.EncodeToString(ed25519.Sign(key, append([]byte(reportContext), report...))),
	}
}

func publicText(key ed25519.PrivateKey) string {
	return base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
}

// reportPageTemplate needs nothing from elsewhere and runs nothing; what stands in it is text, whatever it holds.
var reportPageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"at": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000 UTC") },
}).Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Trace of {{.Entity}}</title>
<style>
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem; color: #1b1f24 }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid #d5d9de; padding: .3rem .6rem; text-align: left; vertical-align: top; overflow-wrap: anywhere }
.refused { color: #b42318; font-weight: 600 }
</style>
</head>
<body>
<h1>Trace of <bdi>{{.Entity}}</bdi></h1>
<p>{{len .Calls}} events and calls, as of {{at .MadeAt}}, made by <bdi>{{.MadeBy}}</bdi>.{{if .Truncated}} There is more: this report has only the first of them.{{end}}</p>
<table>
<thead><tr><th>At</th><th>Delivery</th><th>Topology</th><th>Node</th><th>Application</th><th>Attempts</th><th>Status</th><th>Recorded</th><th>Id</th><th>Reason</th></tr></thead>
<tbody>
{{range .Calls}}<tr><td>{{at .At}}</td><td class="{{.Badge}}">{{.Badge}}</td><td>{{.Topology}} v{{.Version}}</td><td>{{.Node}} ({{.Kind}})</td><td>{{.Application}}</td><td>{{.Attempts}}</td><td>{{with .Status}}{{.}}{{end}}</td><td>{{with .EndedAt}}{{at .}}{{end}}</td><td>{{or .MessageID .CorrelationID}}</td><td><bdi>{{.Reason}}</bdi></td></tr>
{{end}}</tbody>
</table>
<p>Signed with Ed25519: <code>sluice trace verify FILE</code> tells whether it is as it was made.</p>
</body>
</html>`))

type reportKeysView struct {
	Items []reportKeyView `json:"items"`
}

type reportKeyView struct {
	Algorithm string `json:"algorithm" example:"Ed25519"`
	PublicKey string `json:"public_key" doc:"Its 32 bytes in Base64; new reports are signed with the first"`
}

func (g *gateway) addTraceReports() {
	tags, look := []string{"processes"}, openapi.Scope("operate")
	register(g, huma.Operation{
		OperationID: "export-trace", Method: http.MethodGet, Path: tracePath + "/export", Tags: tags, Security: look,
		Summary:     "Export the history of an entity, signed",
		Description: "As JSON, `{\"report\": …, \"signature\": …}`, or as a page of HTML that needs nothing else. The signature is Ed25519, of `sluice trace 1`, a line feed, and the bytes of the report as they stand in the file: those of the value of `report`, or of the page up to the line feed before its last comment. Of very many calls it has the first 5000, and says so.",
		Responses: map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{
			"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		}}},
		Errors: []int{http.StatusServiceUnavailable},
	}, g.exportTrace)
	register(g, huma.Operation{
		OperationID: "list-trace-keys", Method: http.MethodGet, Path: tracePath + "/keys", Tags: tags, Security: look,
		Summary: "List the public keys of signed histories", Errors: []int{http.StatusServiceUnavailable},
	}, g.listTraceKeys)
}

func (g *gateway) listTraceKeys(ctx context.Context, _ *struct{}) (*answer[reportKeysView], error) {
	by, _ := auth.FromContext(ctx)
	signers, err := g.config.Vault.Signers(by.TenantID, reportPurpose)
	view := reportKeysView{Items: []reportKeyView{}}
	for _, key := range signers {
		view.Items = append(view.Items, reportKeyView{"Ed25519", publicText(key)})
	}
	return &answer[reportKeysView]{view}, err
}

func (g *gateway) exportTrace(ctx context.Context, in *struct {
	EntityQuery
	Format string `query:"format" enum:"json,html" default:"json"`
}) (*bytesOutput, error) {
	entity, err := entityOf(in.Entity, openapi.Detail{Location: "query.entity"})
	if err != nil {
		return nil, err
	}
	by, _ := auth.FromContext(ctx)
	signers, err := g.config.Vault.Signers(by.TenantID, reportPurpose)
	if err != nil {
		return nil, err
	}
	r := Report{Entity: in.Entity, MadeBy: by.Actor(), Calls: []CallView{}}
	err = g.look(ctx, func(tx pgx.Tx, by auth.Principal) error {
		if err := tx.QueryRow(ctx, `select now()`).Scan(&r.MadeAt); err != nil {
			return err
		}
		next := &process.Mark{}
		for next != nil && len(r.Calls) < reportedCalls {
			var calls []process.Call
			var err error
			if calls, next, err = process.Trace(ctx, tx, by.TenantID, entity, *next, min(reportPage, reportedCalls-len(r.Calls))); err != nil {
				return err
			}
			for _, c := range calls {
				r.Calls = append(r.Calls, viewOfCall(c))
			}
		}
		r.MadeAt, r.Truncated = r.MadeAt.UTC(), next != nil
		return nil
	})
	if err != nil {
		return nil, err
	}
	body, err := r.render(in.Format, signers[0])
	if err != nil {
		return nil, fmt.Errorf("write a report: %w", err)
	}
	return &bytesOutput{
		ContentType: "application/octet-stream", Disposition: `attachment; filename="trace.` + in.Format + `"`,
		Policy: "default-src 'none'; sandbox", CacheControl: "no-store", Body: body,
	}, nil
}
