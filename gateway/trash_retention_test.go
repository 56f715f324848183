package gateway_test

import (
	"testing"
)

// Nothing goes until an admin says so; what they say is shown.
func TestRetentionOfTheTrash(t *testing.T) {
	t.Parallel()
	d := open(t)
	var r struct {
		RejectedDays int    `json:"rejected_days"`
		ResolvedDays int    `json:"resolved_days"`
		SetBy        string `json:"set_by"`
		SetAt        string `json:"set_at"`
	}
	d.do(200, "GET", "/v1/trash/retention", nil, &r)
	if r.RejectedDays != 0 || r.ResolvedDays != 0 || r.SetBy != "" || r.SetAt != "" {
		t.Errorf("%+v", r)
	}
	d.do(200, "PUT", "/v1/trash/retention", map[string]any{"rejected_days": 90, "resolved_days": 30}, nil)
	d.do(200, "GET", "/v1/trash/retention", nil, &r)
	if r.RejectedDays != 90 || r.ResolvedDays != 30 || r.SetBy == "" || r.SetAt == "" {
		t.Errorf("%+v", r)
	}
	for _, body := range []string{`{}`, `{"rejected_days":-1,"resolved_days":0}`, `{"rejected_days":1.5,"resolved_days":0}`, `{"rejected_days":40000,"resolved_days":0}`, `{"rejected_days":1}`} {
		d.refused(422, "validation-failed", "PUT", "/v1/trash/retention", body, "Content-Type", "application/json")
	}
}
