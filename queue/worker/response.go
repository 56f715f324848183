package worker

import (
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Response is what a worker answered when it did not take a message: evidence for
// people, not the whole.
type Response struct {
	// Headers have their names in lower case. Values that may be secret are
	// replaced.
	Headers map[string]string `json:"headers"`
	// Body is the start of the body, and Cut says that there was more.
	Body []byte `json:"body,omitempty"`
	Cut  bool   `json:"cut,omitempty"`
}

// Bounds of what is kept of a response.
const (
	maxResponseHeaders = 50
	maxResponseBody    = maxExplanation
)

// secretWords are in the names of headers whose values nobody should see.
var secretWords = []string{"auth", "cookie", "token", "secret", "password", "api-key", "apikey", "signature"}

// response keeps what it may of a response. body is what was read.
func response(resp *http.Response, body []byte) *Response {
	r := &Response{Headers: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		if len(r.Headers) == maxResponseHeaders {
			break
		}
		lower := strings.ToLower(name)
		value := clean(strings.Join(resp.Header[name], ", "))
		if slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(lower, word) }) {
			value = "(not kept)"
		}
		r.Headers[clean(lower)] = value
	}
	r.Body = bytes.Clone(body[:min(len(body), maxResponseBody)])
	r.Cut = len(body) > len(r.Body) || len(body) == maxResponseBody || resp.ContentLength > int64(len(body))
	return r
}
