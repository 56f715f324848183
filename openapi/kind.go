package openapi

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Kind is one kind of problem. Its code never changes: programs depend on it.
type Kind struct {
	Code    string // last part of the problem's type, /problems/<code>
	Status  int
	Title   string
	Meaning string // what it is and what to do, for people
}

// The kinds of problem that the API answers with.
var (
	InvalidRequest = Kind{"invalid-request", http.StatusBadRequest, "Invalid request",
		"The request could not be read: its URL, its body or one of its headers is not what the protocol allows. Sending it again will not help."}
	Unauthenticated = Kind{"unauthenticated", http.StatusUnauthorized, "API key missing or not valid",
		"Send an API key as `Authorization: Bearer sluice_…`. A key that was revoked, or that this server does not know, is refused in the same way."}
	Forbidden = Kind{"forbidden", http.StatusForbidden, "Not allowed with this API key",
		"The key is valid, but its scopes do not cover this operation, or the message waits at a breakpoint for others. Use a key with the scope that the operation asks for, or one that the breakpoint names."}
	NotFound = Kind{"not-found", http.StatusNotFound, "Not found",
		"There is no such thing, or it belongs to another tenant; the two look the same from outside."}
	MethodNotAllowed = Kind{"method-not-allowed", http.StatusMethodNotAllowed, "Method not allowed",
		"The path exists, but not with this method. The header `Allow` lists the methods that it has."}
	RequestTimeout = Kind{"request-timeout", http.StatusRequestTimeout, "Request took too long to arrive",
		"The body did not arrive in time. Nothing was kept of it; send it again."}
	Conflict = Kind{"conflict", http.StatusConflict, "Not possible in the present state",
		"What the request wants to change is not in the state that the change starts from. Look at it again, then decide."}
	AlreadyExists = Kind{"already-exists", http.StatusConflict, "Already exists",
		"The name is taken. Choose another, or change the one that is there."}
	NotEnabled = Kind{"not-enabled", http.StatusConflict, "Topology is not enabled",
		"The topology has no enabled version, so it takes no events. Enable a published version, or post to a version by its number."}
	InUse = Kind{"in-use", http.StatusConflict, "Still in use",
		"Something else names what was to be removed. Take that away first; the detail names it."}
	HoldsMessages = Kind{"holds-messages", http.StatusConflict, "Still holds messages",
		"Messages are on their way through it, or wait in its trash; `messages` says how many. Ask to drain them or to move them to the trash."}
	CountChanged = Kind{"count-changed", http.StatusConflict, "Not the messages that you saw",
		"The filter now matches another number of messages than the one given with it, so nothing was done. `messages` is the present number."}
	IdempotencyKeyReused = Kind{"idempotency-key-reused", http.StatusConflict, "Idempotency key used for another body",
		"An event with this key and a different body was accepted before. A key stands for one body: use a new key for a new event."}
	PreconditionFailed = Kind{"precondition-failed", http.StatusPreconditionFailed, "Changed since you looked",
		"The request said with `If-Match` which revision it is about, and there is another now. Look at it again, then decide."}
	PayloadTooLarge = Kind{"payload-too-large", http.StatusRequestEntityTooLarge, "Body too large",
		"The body is larger than this server accepts. Put large data elsewhere and send a reference to it."}
	UnsupportedMediaType = Kind{"unsupported-media-type", http.StatusUnsupportedMediaType, "Content type not supported",
		"The operation reads another content type; nearly all read `application/json`."}
	ValidationFailed = Kind{"validation-failed", http.StatusUnprocessableEntity, "Request does not fit its contract",
		"The request was read, but fields or parameters of it are missing, unknown or out of range. `errors` names each with a JSON pointer or a location."}
	InvalidTopology = Kind{"invalid-topology", http.StatusUnprocessableEntity, "Topology is not valid",
		"The topology file has mistakes. `errors` names each with its place and how to mend it."}
	TooManyRequests = Kind{"too-many-requests", http.StatusTooManyRequests, "Too many requests",
		"More comes in than can be stored, the topology has as much open as its `bounds` allow, or this caller sends more than its share. Nothing was accepted: wait as long as `Retry-After` says."}
	HeadersTooLarge = Kind{"headers-too-large", http.StatusRequestHeaderFieldsTooLarge, "Headers too large",
		"The headers together are larger than this server accepts."}
	Internal = Kind{"internal-error", http.StatusInternalServerError, "Internal error",
		"This is a mistake in Sluice. The log of the server has the cause, under the request id."}
	WorkerFailed = Kind{"worker-failed", http.StatusBadGateway, "The worker did not do it",
		"The worker that has the application could not be reached, took too long, or refused; the detail has its own words. Nothing more was done after that."}
	Unavailable = Kind{"unavailable", http.StatusServiceUnavailable, "Not available at the moment",
		"The server is too busy, is shutting down or cannot reach its database. Try again as `Retry-After` says. Unless the detail says that nothing was accepted, an event may have been stored: send it again with the same idempotency key."}
)

var kinds = []Kind{
	InvalidRequest, Unauthenticated, Forbidden, NotFound, MethodNotAllowed, RequestTimeout, Conflict, AlreadyExists,
	NotEnabled, InUse, HoldsMessages, CountChanged, IdempotencyKeyReused, PreconditionFailed, PayloadTooLarge, UnsupportedMediaType,
	ValidationFailed, InvalidTopology, TooManyRequests, HeadersTooLarge, Internal, WorkerFailed, Unavailable,
}

// Kinds returns every kind of problem, in the order of their statuses.
func Kinds() []Kind { return slices.Clone(kinds) }

// Because returns a problem of this kind. The detail is read by people: it says what is wrong this time, and shows
// nothing of the inside.
func (k Kind) Because(format string, args ...any) *Problem {
	return k.problem(fmt.Sprintf(format, args...))
}

func (k Kind) problem(detail string) *Problem {
	return &Problem{
		Type: "/problems/" + k.Code, Title: k.Title, Status: k.Status, Code: k.Code, Detail: detail,
		RetryAfter: defaultRetry(k.Status),
	}
}

// kindOf returns the most general kind with a status.
func kindOf(status int) Kind {
	for _, k := range kinds {
		if k.Status == status {
			return k
		}
	}
	title := http.StatusText(status)
	if title == "" {
		title = fmt.Sprintf("Status %d", status)
	}
	return Kind{Code: strings.ReplaceAll(strings.ToLower(title), " ", "-"), Status: status, Title: title}
}
