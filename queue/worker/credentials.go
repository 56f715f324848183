package worker

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// What credentials may be long.
const (
	maxTokenBytes = 4 << 10
	maxPEMBytes   = 64 << 10
	maxWays       = 256 // transports with credentials of their own that are kept
)

// ErrCredentials says that texts are no credentials. It never quotes them.
var ErrCredentials = errors.New("the credentials cannot be used")

// CredentialTexts are credentials as people give them. What is empty is not
// asked for by the worker.
type CredentialTexts struct {
	// BearerToken goes with each call, as Authorization: Bearer <token>.
	BearerToken string
	// ClientCertificate, with its chain, and ClientKey are PEM: who calls proves by
	// them who they are, as the connection is made.
	ClientCertificate, ClientKey string
	// ServerCA is the PEM of who vouches for the worker's certificate, instead of
	// the roots of the system.
	ServerCA string
}

// Credentials are what Sluice shows a worker to prove who calls, beside the
// signature. The zero value is nothing. However they are printed, logged or
// marshalled they show ***.
type Credentials struct {
	// A function, for the reason that [Secret] has one.
	held func() *credentials
}

type credentials struct {
	authorization []string
	certificates  []tls.Certificate
	roots         *x509.CertPool
	way           string // names certificate, key and roots: equal ones share connections. Empty: there are none
}

// ParseCredentials reads credentials, or fails with [ErrCredentials].
func ParseCredentials(texts CredentialTexts) (Credentials, error) {
	if texts == (CredentialTexts{}) {
		return Credentials{}, nil
	}
	c := &credentials{}
	if token := texts.BearerToken; token != "" {
		if len(token) > maxTokenBytes || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return Credentials{}, fmt.Errorf("%w: a bearer token is up to %d printable ASCII characters without a space", ErrCredentials, maxTokenBytes)
		}
		c.authorization = []string{"Bearer " + token}
	}
	if texts.ClientCertificate != "" || texts.ClientKey != "" {
		pair, _, err := certificate(texts.ClientCertificate, texts.ClientKey)
		if err != nil {
			return Credentials{}, err
		}
		c.certificates = []tls.Certificate{pair}
	}
	if texts.ServerCA != "" {
		c.roots = x509.NewCertPool()
		if len(texts.ServerCA) > maxPEMBytes || !c.roots.AppendCertsFromPEM([]byte(texts.ServerCA)) {
			return Credentials{}, fmt.Errorf("%w: the server's CA is no certificate as PEM", ErrCredentials)
		}
	}
	if c.certificates != nil || c.roots != nil {
		sum := sha256.Sum256([]byte(texts.ClientCertificate + "\x00" + texts.ClientKey + "\x00" + texts.ServerCA))
		c.way = hex.EncodeToString(sum[:])
	}
	return Credentials{held: func() *credentials { return c }}, nil
}

// certificate reads a certificate and its key. The errors of package tls do not
// quote keys.
func certificate(chain, key string) (tls.Certificate, *x509.Certificate, error) {
	if len(chain) > maxPEMBytes || len(key) > maxPEMBytes {
		return tls.Certificate{}, nil, fmt.Errorf("%w: the client certificate or its key is longer than %d bytes", ErrCredentials, maxPEMBytes)
	}
	pair, err := tls.X509KeyPair([]byte(chain), []byte(key))
	if err != nil {
		return pair, nil, fmt.Errorf("%w: client certificate and key: %w", ErrCredentials, err)
	}
	return pair, pair.Leaf, nil
}

// CertificateFacts is what people may see of a certificate.
type CertificateFacts struct {
	Subject   string
	ExpiresAt time.Time
}

// FactsOf tells of the first certificate of a PEM text; nothing, if there is none.
func FactsOf(text string) CertificateFacts {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return CertificateFacts{}
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return CertificateFacts{}
	}
	return CertificateFacts{Subject: leaf.Subject.String(), ExpiresAt: leaf.NotAfter}
}

// authorization is what the header of that name says, of those credentials or
// else of the worker's URL.
func (x *exchange) authorization(e *endpoint) []string {
	if held := x.credentials.held; held != nil && held().authorization != nil {
		return held().authorization
	}
	return e.authorization
}

// way returns what carries calls with these credentials. Connections are shared
// by calls with the same ones alone, so a certificate that was replaced is not
// shown again.
func (c *Client) way(of Credentials) *http.Transport {
	if of.held == nil || of.held().way == "" {
		return c.transport
	}
	held := of.held()
	c.mu.RLock()
	way := c.ways[held.way]
	c.mu.RUnlock()
	if way != nil {
		return way
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if way := c.ways[held.way]; way != nil {
		return way
	}
	if len(c.ways) >= maxWays {
		c.closeWays()
	}
	way = c.transport.Clone()
	if way.TLSClientConfig == nil {
		way.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if held.certificates != nil {
		way.TLSClientConfig.Certificates = held.certificates
	}
	if held.roots != nil {
		way.TLSClientConfig.RootCAs = held.roots
	}
	c.ways[held.way] = way
	return way
}

// isAlert tells whether the worker ended the connection in the words of TLS: of a
// certificate that it does not take it says so only once we believe to be
// connected, and has read nothing of the call.
func isAlert(err error) bool {
	of, ok := errors.AsType[*net.OpError](err)
	return ok && of.Op == "remote error"
}

// closeWays forgets all ways. Calls under way on them end by themselves. The
// caller holds the lock.
func (c *Client) closeWays() {
	for _, way := range c.ways {
		way.CloseIdleConnections()
	}
	clear(c.ways)
}

// IsZero reports whether there are none.
func (c Credentials) IsZero() bool { return c.held == nil }

// String returns ***.
func (c Credentials) String() string { return hidden }

// GoString returns ***.
func (c Credentials) GoString() string { return hidden }

// Format prints *** for every verb.
func (c Credentials) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue logs ***.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText gives ***, and so do JSON and whatever else asks for text.
func (c Credentials) MarshalText() ([]byte, error) { return []byte(hidden), nil }
