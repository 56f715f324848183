package worker

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of a Standard Webhooks signature.
const (
	headerWebhookID        = "Webhook-Id"
	headerWebhookTimestamp = "Webhook-Timestamp"
	headerWebhookSignature = "Webhook-Signature"
)

// signatureVersion marks a signature made with a shared secret.
const signatureVersion = "v1,"

// Tolerance is how far a signature's time may lie from now, either way, when
// nobody says otherwise.
const Tolerance = 5 * time.Minute

// ErrSignature says that a call is not from who holds the secret, or not from now.
var ErrSignature = errors.New("signature refused")

// Sign returns the Webhook-Signature over an id, a time and a body: one
// signature for each secret, separated by spaces. id must not hold a dot, or
// what it signs would be ambiguous.
func Sign(id string, at time.Time, body []byte, secrets []Secret) string {
	return string(appendSignatures(nil, id, strconv.FormatInt(at.Unix(), 10), body, secrets))
}

func appendSignatures(dst []byte, id, timestamp string, body []byte, secrets []Secret) []byte {
	var mac [sha256.Size]byte
	for _, s := range secrets {
		if s.IsZero() {
			continue // it would be a signature that anybody can make
		}
		if len(dst) > 0 {
			dst = append(dst, ' ')
		}
		dst = append(dst, signatureVersion...)
		dst = base64.StdEncoding.AppendEncode(dst, s.sum(mac[:0], id, timestamp, body))
	}
	return dst
}

// Verify checks that a call was signed with one of the secrets within tolerance
// of now, before or after (0 means [Tolerance]). It takes the body as it came
// and compares in constant time. Any failure is an [ErrSignature].
func Verify(header http.Header, body []byte, secrets []Secret, tolerance time.Duration, now time.Time) error {
	id, err := sole(header, headerWebhookID)
	if err != nil {
		return err
	}
	timestamp, err := sole(header, headerWebhookTimestamp)
	if err != nil {
		return err
	}
	signatures, err := sole(header, headerWebhookSignature)
	if err != nil {
		return err
	}
	if err := checkTime(timestamp, tolerance, now); err != nil {
		return err
	}
	var macs [][]byte
	for _, s := range secrets {
		if !s.IsZero() {
			macs = append(macs, s.sum(nil, id, timestamp, body))
		}
	}
	matches := 0
	for signature := range strings.SplitSeq(signatures, " ") {
		encoded, found := strings.CutPrefix(signature, signatureVersion)
		if !found {
			continue // of a version that is not ours: a sender may offer several
		}
		given, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			continue
		}
		for _, mac := range macs {
			if hmac.Equal(mac, given) {
				matches++
			}
		}
	}
	if matches == 0 {
		return fmt.Errorf("%w: no signature matches", ErrSignature)
	}
	return nil
}

// sole returns the value of a header that must be there exactly once: a second
// one might be read by somebody else.
func sole(header http.Header, name string) (string, error) {
	values := header[name]
	if len(values) != 1 || values[0] == "" {
		return "", fmt.Errorf("%w: want one %s header, got %d", ErrSignature, name, len(values))
	}
	return values[0], nil
}

func checkTime(timestamp string, tolerance time.Duration, now time.Time) error {
	if tolerance <= 0 {
		tolerance = Tolerance
	}
	// ParseUint takes no sign. 62 bits keep the sums below from wrapping.
	seconds, err := strconv.ParseUint(timestamp, 10, 62)
	if err != nil {
		return fmt.Errorf("%w: the timestamp is no number of seconds", ErrSignature)
	}
	at, bound := int64(seconds), int64(tolerance/time.Second)
	if at < now.Unix()-bound {
		return fmt.Errorf("%w: the timestamp is too old", ErrSignature)
	}
	if at > now.Unix()+bound {
		return fmt.Errorf("%w: the timestamp lies in the future", ErrSignature)
	}
	return nil
}
