package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// held is a call as the pull API knows whoever has it.
type held struct {
	ID    string `json:"id"`
	Token string `json:"token"`
}

func (h held) key() string { return h.ID + h.Token }

// call is one as it is taken.
type call struct {
	held
	Left    float64           `json:"seconds_left"`
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    *string           `json:"body"`
	Base64  []byte            `json:"body_base64"`
}

func (c call) body() []byte {
	if c.Body != nil {
		return []byte(*c.Body)
	}
	return c.Base64
}

// result is what a worker answered.
type result struct {
	held
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    *string           `json:"body,omitempty"`
	Base64  []byte            `json:"body_base64,omitempty"`
}

// says is a result in place of the worker's.
func (r result) says(status int, text string) result {
	r.Status, r.Headers, r.Body = status, map[string]string{"Content-Type": "text/plain; charset=utf-8"}, &text
	return r
}

func (r result) size() int {
	if r.Body != nil {
		return len(*r.Body)
	}
	return len(r.Base64)
}

// maxSaid bounds what Sluice answers: calls with their bodies.
const maxSaid = 256 << 20

// request is one of Sluice.
type request struct {
	method, path string
	within       time.Duration
	body         any // nil: none
}

// post asks something of the pull API.
func (a *Agent) post(what string, within time.Duration, body any) request {
	return request{http.MethodPost, "/v1/workers/" + url.PathEscape(a.Worker) + "/" + what, within, body}
}

// ask makes a request of Sluice. It returns [*Refused] for an answer that will be the same the next time.
func (a *Agent) ask(ctx context.Context, r request, into any) error {
	ctx, cancel := context.WithTimeout(ctx, r.within)
	defer cancel()
	var content io.Reader
	if r.body != nil {
		encoded, err := json.Marshal(r.body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, strings.TrimRight(a.URL, "/")+r.path, content)
	if err != nil {
		return &Refused{Status: http.StatusBadRequest, Detail: err.Error()}
	}
	req.Header.Set("Authorization", "Bearer "+a.Key)
	if content != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.link.Do(req)
	if err != nil {
		return fmt.Errorf("reach Sluice: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxSaid))
	if err != nil {
		return fmt.Errorf("read what Sluice says: %w", err)
	}
	switch status := resp.StatusCode; {
	case status == http.StatusOK:
		return json.Unmarshal(answer, into)
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusNotFound, status == http.StatusConflict,
		status == http.StatusBadRequest, status == http.StatusUnprocessableEntity, status == http.StatusRequestEntityTooLarge:
		var problem struct{ Detail string }
		if json.Unmarshal(answer, &problem) != nil || problem.Detail == "" {
			problem.Detail = resp.Status
		}
		return &Refused{Status: status, Detail: "Sluice says: " + problem.Detail}
	default: // it is too busy, is shutting down, or a proxy has lost it
		return fmt.Errorf("sluice answers %s", resp.Status)
	}
}
