package worker

import (
	"errors"
	"net/http"
	"time"
)

// What the tests, which live outside the package to use workertest, see of its
// inside.
var (
	EncodeValue = encodeValue
	DecodeValue = decodeValue
	EncodedLen  = encodedLen
	RetryAfter  = retryAfter
)

// SetNow stops the client's clock.
func (c *Client) SetNow(now time.Time) { c.now = func() time.Time { return now } }

// Read reads a reply to a request as the client does.
func Read(request Request, header http.Header, body []byte) (Reply, error) {
	return reader{&request, fold(request.Headers), 100, false}.read(http.StatusOK, header, body)
}

// IsRejection reports whether Read failed because the worker said fail.
func IsRejection(err error) bool {
	_, ok := errors.AsType[rejection](err)
	return ok
}

// ParseText decodes a JSON string as the reader of results does.
func ParseText(doc []byte) (string, error) {
	v, err := parseJSON(doc)
	if err != nil {
		return "", err
	}
	return v.text()
}
