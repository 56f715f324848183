package worker

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Class sorts failures by what is to be done about them.
type Class int

// The classes.
const (
	// Unavailable: the worker is down or out of reach, and the message did not,
	// or hardly, get there. Says nothing about the message.
	Unavailable Class = iota + 1
	// Limited: the worker, or who stands behind it, asks for fewer calls.
	Limited
	// Transient: this try went wrong after the message may have got there.
	Transient
	// Rejected: another try would go the same way.
	Rejected
	// Cancelled: the caller gave up. Says nothing about worker or message.
	Cancelled
)

func (c Class) String() string {
	switch c {
	case Unavailable:
		return "unavailable"
	case Limited:
		return "limited"
	case Transient:
		return "transient"
	case Rejected:
		return "rejected"
	case Cancelled:
		return "cancelled"
	}
	return fmt.Sprintf("Class(%d)", int(c))
}

// ErrProtocol says that a worker answered something that is no reply. The
// failure's reason says what is wrong with it.
var ErrProtocol = errors.New("not a reply")

// Failure is the only error of [Client.Call]: no result, and why.
//
// A [Handler]'s function returns one to answer with its class: Rejected fails
// the message for good, Limited asks to come back after RetryAfter.
type Failure struct {
	Class Class
	// Status is the reply's HTTP status, 0 if there was none.
	Status int
	// RetryAfter is how long the worker asked to be left alone, 0 if it did not.
	RetryAfter time.Duration
	// Rates is what the reply's headers said of rates, nil if they said nothing.
	Rates http.Header
	// Reason is for people: one line of at most [MaxReason] characters of valid
	// UTF-8 without control characters, secrets or the query of a URL.
	Reason string
	// Err is the cause, if there is one beneath the reason.
	Err error
	// Response is what the worker answered, nil if it did not.
	Response *Response
	// Timing is how long the call took until it failed.
	Timing Timing
}

// Error returns the class and the reason.
func (f *Failure) Error() string { return f.Class.String() + ": " + f.Reason }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// classOf sorts a reply by its status; 0 means that it is no failure.
func classOf(status int) Class {
	switch status {
	case http.StatusTooManyRequests:
		return Limited
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return Unavailable
	case http.StatusRequestTimeout, http.StatusTooEarly:
		return Transient
	}
	switch {
	case 200 <= status && status < 300:
		return 0
	case 500 <= status && status < 600:
		return Transient
	}
	return Rejected // 4xx; 3xx, since redirects are not followed; 101; and what HTTP does not know
}

// refusal is the failure that a status other than 2xx stands for. body is the
// start of what the worker said with it.
func refusal(name string, resp *http.Response, body []byte, now time.Time) *Failure {
	f := &Failure{Class: classOf(resp.StatusCode), Status: resp.StatusCode, Rates: rates(resp.Header), Response: response(resp, body)}
	if f.Class != Rejected {
		f.RetryAfter = retryAfter(resp.Header, now)
	}
	said := strings.TrimSpace(strconv.Itoa(resp.StatusCode) + " " + http.StatusText(resp.StatusCode))
	switch {
	case 300 <= resp.StatusCode && resp.StatusCode < 400:
		said += redirect(resp.Header.Get("Location"))
	case len(body) > 0:
		if detail := explanation(resp.Header.Get(headerContentType), body); detail != "" {
			said += ": " + detail
		}
	}
	f.Reason = reason("%s answered %s", name, said)
	return f
}

func redirect(location string) string {
	const advice = ": redirects are not followed, register the URL where it leads"
	u, err := url.Parse(location)
	if location == "" || err != nil {
		return advice
	}
	return advice + " (" + (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String() + ")"
}

// explanation finds words for people in the body of an error: in a problem
// document or what looks like one, or the text itself. A page of HTML has none.
func explanation(mediaType string, body []byte) string {
	mediaType, _, _ = strings.Cut(strings.ToLower(mediaType), ";")
	mediaType = strings.TrimSpace(mediaType)
	switch {
	case mediaType == "application/json", strings.HasSuffix(mediaType, "+json"):
		var fields map[string]json.RawMessage
		if json.Unmarshal(body, &fields) == nil {
			for _, key := range []string{"detail", "reason", "title", "message", "error"} {
				var text string
				if json.Unmarshal(fields[key], &text) == nil && text != "" {
					return text
				}
			}
		}
		return string(body)
	case mediaType == "text/plain", mediaType == "" && utf8.Valid(body):
		return string(body)
	}
	return ""
}

// retryAfter reads a Retry-After header: seconds, or a date, which is held
// against the worker's own clock if it told the time.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if digits := strings.TrimLeft(value, "-"); digits != "" && strings.Trim(digits, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		switch {
		case value[0] == '-':
			return 0
		case err != nil || seconds > int64(MaxRetryAfter/time.Second):
			return MaxRetryAfter // the only error left is a number out of range
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), MaxRetryAfter)
}

// rates picks what headers say of rates.
func rates(header http.Header) http.Header {
	var found http.Header
	for name, values := range header {
		lower := strings.ToLower(name)
		if lower != "retry-after" && !strings.HasPrefix(strings.TrimPrefix(lower, "x-"), "ratelimit") && !strings.HasPrefix(lower, "x-rate-limit-") {
			continue
		}
		if found == nil {
			found = http.Header{}
			if date := header["Date"]; date != nil {
				found["Date"] = date
			}
		}
		found[name] = values
	}
	return found
}

// unreached is the failure of a call that got no connection.
func unreached(name string, err error) *Failure {
	return &Failure{Class: Unavailable, Reason: reason("%s cannot be reached: %s", name, plain(err)), Err: err}
}

// malformed is the failure of a reply that breaks the contract. body is what was
// read of it.
func malformed(name string, resp *http.Response, body []byte, err error) *Failure {
	return &Failure{
		Class:    Transient,
		Status:   resp.StatusCode,
		Reason:   reason("%s answered %d, but its reply breaks the protocol: %s", name, resp.StatusCode, err),
		Err:      fmt.Errorf("%w: %w", ErrProtocol, err),
		Response: response(resp, body),
	}
}

// plain puts an error of the network into words.
func plain(err error) string {
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no connection in time"
	case errors.As(err, &certificate):
		return "its certificate is not trusted: " + certificate.Err.Error()
	}
	return err.Error()
}

// reason formats a text for people and makes it fit to be kept and shown.
func reason(format string, args ...any) string {
	return clean(fmt.Sprintf(format, args...))
}

// Clean makes any text fit to be a [Failure]'s reason.
func Clean(s string) string { return clean(s) }

// clean makes any text one line of valid UTF-8 of at most MaxReason characters.
func clean(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range s { // an invalid byte comes out as U+FFFD
		switch {
		case n == MaxReason-1:
			b.WriteRune('…')
			return b.String()
		case r == '\u2028', r == '\u2029', unicode.IsControl(r):
			b.WriteByte(' ')
		case isBidi(r):
			continue // they would let a worker rewrite what the rest of the line looks like
		default:
			b.WriteRune(r)
		}
		n++
	}
	return strings.TrimSpace(b.String())
}

// isBidi reports whether a character changes the direction of those after it.
func isBidi(r rune) bool {
	return r == '\u061c' || r == '\u200e' || r == '\u200f' || '\u202a' <= r && r <= '\u202e' || '\u2066' <= r && r <= '\u2069'
}
