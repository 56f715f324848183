package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"unicode/utf8"

	"sluice/openapi"
	"sluice/queue/worker"
)

// ownPrefix stands before the name of a header that is the message's, whatever it is called. Its value is
// percent-encoded, as it is on the way to a worker and back.
const ownPrefix = "Sluice-Header-"

const contentType = "content-type"

// DefaultHeaders names the headers of a request that an event keeps when nobody says otherwise: what describes its body,
// what says which event it is and of which kind, what a worker needs to check a producer's signature over the body, and
// what ties it to the trace that it is part of.
func DefaultHeaders() []string {
	return []string{
		"content-type", "content-encoding", "content-language",
		"ce-*",                                                 // CloudEvents
		"webhook-id", "webhook-timestamp", "webhook-signature", // Standard Webhooks
		"x-event-id", "x-event-type", "x-request-id",
		"traceparent", "tracestate",
		"x-github-*", "x-hub-signature-256", "x-gitlab-event", "x-gitlab-event-uuid", "x-shopify-*", "stripe-signature",
	}
}

// never are the headers that are never kept, because they are secrets, say who stands at the door, or belong to the one
// connection: a worker that was given them might believe them. A name may end in *.
var never = []string{
	"authorization", "proxy-*", "cookie", "set-cookie", "x-api-key", "orchesty-api-key", "host", "forwarded", "x-forwarded-*", "x-real-ip", "via",
	"sluice-*", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "expect",
}

// keeper chooses the headers that an event keeps.
type keeper struct {
	exact    map[string]string // the name as net/http writes it: in lower case
	prefixes []string          // as net/http writes them
}

func newKeeper(names []string) keeper {
	k := keeper{exact: map[string]string{}}
	for _, name := range names {
		name = strings.ToLower(name)
		if prefix, ok := strings.CutSuffix(name, "*"); ok {
			k.prefixes = append(k.prefixes, http.CanonicalHeaderKey(prefix))
		} else if !isNever(name) {
			k.exact[http.CanonicalHeaderKey(name)] = name
		}
	}
	return k
}

func isNever(lower string) bool {
	for _, n := range never {
		if prefix, ok := strings.CutSuffix(n, "*"); ok && strings.HasPrefix(lower, prefix) || n == lower {
			return true
		}
	}
	return false
}

// name returns the name under which a header of a request is kept, or "".
func (k keeper) name(key string) string {
	if lower, ok := k.exact[key]; ok {
		return lower
	}
	for _, prefix := range k.prefixes {
		if strings.HasPrefix(key, prefix) {
			if lower := strings.ToLower(key); !isNever(lower) {
				return lower
			}
		}
	}
	return ""
}

// choose returns the headers of a request that its event keeps. Several of one name are one value, joined by commas, as
// HTTP has it. What is named Sluice-Header-… has the last word.
func (k keeper) choose(h http.Header) (map[string]string, error) {
	kept := make(map[string]string, 4)
	for key, values := range h {
		if name := k.name(key); name != "" {
			kept[name] = strings.Join(values, ", ")
		}
	}
	if len(h["Content-Type"]) > 1 {
		return nil, badHeader(contentType, "there are several of it: nobody could tell which one holds")
	}
	if err := setOwn(kept, h); err != nil {
		return nil, err
	}
	return kept, checkHeaders(kept)
}

// setOwn adds what a request's Sluice-Header-… say.
func setOwn(to map[string]string, h http.Header) error {
	for key, values := range h {
		name, ok := strings.CutPrefix(key, ownPrefix)
		if !ok {
			continue
		}
		if name == "" {
			return badHeader(ownPrefix, "there is no name behind it")
		}
		to[strings.ToLower(name)] = decodeValue(strings.Join(values, ", "))
	}
	return nil
}

// edit applies to a message's headers what a request says about them: its content type, which new ones there are, and
// in Sluice-Drop which go. The rules are those of a worker's reply.
func edit(headers map[string]string, h http.Header) (map[string]string, error) {
	edited := maps.Clone(headers)
	if edited == nil {
		edited = map[string]string{}
	}
	for name := range strings.SplitSeq(strings.Join(h.Values("Sluice-Drop"), ","), ",") {
		switch name = strings.ToLower(strings.TrimSpace(name)); name {
		case "*":
			clear(edited)
			if kind, ok := headers[contentType]; ok {
				edited[contentType] = kind
			}
		default:
			delete(edited, name)
		}
	}
	switch kinds := h["Content-Type"]; len(kinds) {
	case 0:
	case 1:
		edited[contentType] = kinds[0]
	default:
		return nil, badHeader(contentType, "there are several of it: nobody could tell which one holds")
	}
	if err := setOwn(edited, h); err != nil {
		return nil, err
	}
	return edited, checkHeaders(edited)
}

// checkHeaders makes sure that a message with these headers can also be sent.
func checkHeaders(headers map[string]string) error {
	err := worker.CheckHeaders(headers)
	if err == nil {
		return nil
	}
	size := 0
	for name, value := range headers {
		size += len(name) + len(value)
	}
	if len(headers) > worker.MaxHeaders || size > worker.MaxHeaderBytes {
		return openapi.HeadersTooLarge.Because("the headers are too large to be kept: %s", err)
	}
	return openapi.ValidationFailed.Because("the headers cannot be kept: %s", err).With(openapi.Detail{Detail: err.Error(), Location: "header"})
}

func badHeader(name, why string) *openapi.Problem {
	return openapi.ValidationFailed.Because("header %s: %s", name, why).With(openapi.Detail{Detail: why, Location: "header." + name})
}

// decodeValue reads a percent-encoded value. A % that no two hex digits follow stands for itself: values are written by
// hand ("50% off").
func decodeValue(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			high, low := unhex(s[i+1]), unhex(s[i+2])
			if high >= 0 && low >= 0 {
				b = append(b, byte(high<<4|low))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// maxKey bounds an idempotency key. Only its digest is kept; the bound is there so that a mistake shows.
const maxKey = 255

// keyHeaders may hold the key that makes sending an event again harmless. The first that is there counts.
var keyHeaders = []string{"Idempotency-Key", "Webhook-Id", "X-Event-Id"}

// idempotencyKey finds the key of a request, or "".
func idempotencyKey(h http.Header) (string, error) {
	for i, name := range keyHeaders {
		values := h[name]
		switch {
		case len(values) == 0:
			continue
		case len(values) > 1:
			return "", badHeader(name, "there are several of it: an event has one key")
		case values[0] == "" && i > 0:
			continue
		}
		if err := checkKey(values[0]); err != nil {
			return "", badHeader(name, err.Error())
		}
		return values[0], nil
	}
	return "", nil
}

func checkKey(key string) error {
	if key == "" || len(key) > maxKey || !utf8.ValidString(key) {
		return fmt.Errorf("a key has 1 to %d bytes of UTF-8 text", maxKey)
	}
	return nil
}
