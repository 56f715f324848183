package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/queue"
	"sluice/queue/vault"
	"sluice/queue/worker"
)

const guardedTopology = `topology: guarded
nodes:
  in: {kind: start, followers: [work]}
  work: {kind: custom, worker: guarded, retry: {attempts: 1}}
`

// A worker that wants a bearer token gets it, a new one without a restart, and nobody else does.
func TestBearerToken(t *testing.T) {
	t.Parallel()
	w, _ := startServe(t, "--secret-keys", vault.NewKey())
	var want atomic.Pointer[string]
	expect := func(token string) { want.Store(&token) }
	expect("first-token")
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+*want.Load() {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		rw.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(s.Close)
	file := writeFile(t, "token", "first-token\n")
	added := w.run("worker", "add", "guarded", s.URL, "--bearer-token-file", file, "--output", "json").exits(exitOK)
	w.typing(guardedTopology).run("topology", "apply", "-", "--enable").exits(exitOK)
	w.run("send", "guarded", "in", "--data", "{}", "--wait").exits(exitOK).says("done")
	w.run("worker", "add", "legacy", s.URL, "--protocol", "orchesty", "--bearer-token-file", file).exits(exitOK)
	if r := w.run("worker", "refresh", "legacy").says("connector/list"); strings.Contains(r.out, "401") {
		t.Errorf("Orchesty's worker was not shown the token:\n%s", r.out)
	}

	expect("second-token")
	w.run("worker", "test", "guarded", "work").exits(exitFailed).says("401")
	changed := w.run("worker", "credentials", "guarded", "--bearer-token-file", writeFile(t, "token", "second-token")).exits(exitOK).says("Bearer token  set")
	eventually(t, "the new token is in use", func() bool { return w.run("worker", "test", "guarded", "work").code == exitOK })
	w.run("send", "guarded", "in", "--data", "{}", "--wait").exits(exitOK).says("done")
	shown := w.run("worker", "show", "guarded", "--output", "json").exits(exitOK).says(`"bearer_token": true`)
	listed := w.run("worker", "list", "--output", "json").exits(exitOK)
	for _, r := range []string{added.out, changed.out, shown.out, listed.out, storedWorkers(t, w)} {
		if strings.Contains(r, "first-token") || strings.Contains(r, "second-token") {
			t.Errorf("the token is shown:\n%s", r)
		}
	}

	bad := w.run("worker", "credentials", "guarded", "--bearer-token-file", writeFile(t, "token", "two words")).exits(exitFailed).complains("without a space")
	if strings.Contains(bad.errors, "two words") {
		t.Errorf("the token is quoted: %s", bad.errors)
	}
	w.run("worker", "credentials", "guarded").exits(exitUsage).complains("nothing to change")
	w.run("worker", "credentials", "other", "--drop", "bearer-token").exits(exitFailed).complains("no such worker")
	w.run("worker", "credentials", "guarded", "--drop", "bearer-token").exits(exitOK)
	eventually(t, "the token is shown no more", func() bool { return strings.Contains(w.run("worker", "test", "guarded", "work").out, "401") })
	w.run("worker", "add", "inside", "--pull", "--bearer-token-file", file).exits(exitFailed).complains("takes its calls itself")
}

// storedWorkers is what the database has of workers, as text.
func storedWorkers(t *testing.T, w *world) (text string) {
	t.Helper()
	pool, err := queue.Open(t.Context(), w.env["TEST_DATABASE"], 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pool.QueryRow(t.Context(), `select json_agg(w)::text || (select json_agg(a)::text from sluice.audit a) from sluice.worker w`).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

// authority issues certificates, as files.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t}
	chain, key := a.issue(name, true)
	block, _ := pem.Decode([]byte(chain))
	var err error
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(chain), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	a.key, a.file = pair.PrivateKey.(*ecdsa.PrivateKey), writeFile(t, "ca.crt", chain)
	return a
}

// issue makes a certificate and its key, as PEM; the first one is the authority's own.
func (a *authority) issue(name string, authority bool) (chain, key string) {
	a.t.Helper()
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, IsCA: authority, BasicConstraintsValid: true,
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, made
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &made.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(made)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

// A worker that lets nobody in without a certificate is called with one. Until it is, its messages wait: nothing is wrong
// with them. A certificate is replaced without a restart.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	w, _ := startServe(t, "--secret-keys", vault.NewKey())
	ca := newAuthority(t, "the shop's CA")
	var caller atomic.Pointer[string]
	s := httptest.NewUnstartedServer(worker.Handler{Func: func(ctx context.Context, r *worker.Request) (worker.Reply, error) { return worker.Pass(), nil }})
	work := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		caller.Store(&r.TLS.PeerCertificates[0].Subject.CommonName)
		work.ServeHTTP(rw, r)
	})
	own, err := tls.X509KeyPair(pair(ca.issue("worker", false)))
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(ca.cert)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, MinVersion: tls.VersionTLS12}
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of those who are not let in
	s.StartTLS()
	t.Cleanup(s.Close)
	address := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)

	w.run("worker", "add", "guarded", address, "--server-ca", ca.file).exits(exitOK)
	w.typing(guardedTopology).run("topology", "apply", "-", "--enable").exits(exitOK)
	w.run("worker", "test", "guarded", "work").exits(exitFailed).says("unavailable", "certificate")
	id := strings.TrimSpace(w.run("send", "guarded", "in", "--data", "{}").ok())

	certificate := func(name string) []string {
		chain, key := ca.issue(name, false)
		return []string{"worker", "credentials", "guarded", "--client-cert", writeFile(t, "c.crt", chain), "--client-key", writeFile(t, "c.key", key)}
	}
	w.run(certificate("sluice one")...).exits(exitOK).says("CN=sluice one, until ", "CN=the shop's CA")
	eventually(t, "what waited has gone on", func() bool {
		return decode[processView](w.run("process", "show", id, "--output", "json")).State == "done"
	})
	if *caller.Load() != "sluice one" {
		t.Errorf("called by %s", *caller.Load())
	}
	w.run(certificate("sluice two")...).exits(exitOK).says("CN=sluice two")
	eventually(t, "the new certificate is in use", func() bool {
		return w.run("worker", "test", "guarded", "work").code == exitOK && *caller.Load() == "sluice two"
	})
	if strings.Contains(storedWorkers(t, w), "PRIVATE KEY") {
		t.Error("a key is stored as it is")
	}

	stranger := newAuthority(t, "another CA")
	chain, key := stranger.issue("nobody", false)
	file := func(text string) string { return writeFile(t, "x.pem", text) }
	w.run("worker", "credentials", "guarded", "--client-cert", file(chain)).exits(exitFailed).complains("goes with its key")
	mixed := w.run("worker", "credentials", "guarded", "--client-cert", certificate("x")[4], "--client-key", file(key)).exits(exitFailed).complains("does not match")
	if strings.Contains(mixed.errors, "PRIVATE KEY") {
		t.Errorf("the key is quoted: %s", mixed.errors)
	}
	w.run("worker", "credentials", "guarded", "--server-ca", file("nonsense")).exits(exitFailed).complains("no certificate as PEM")
	w.run("worker", "move", "guarded", "http://127.0.0.1:9").exits(exitFailed).complains("https")
	w.run("worker", "credentials", "guarded", "--client-cert", file(chain), "--client-key", file(key)).exits(exitOK)
	eventually(t, "a stranger is not let in", func() bool { return strings.Contains(w.run("worker", "test", "guarded", "work").out, "unavailable") })
	w.run("worker", "credentials", "guarded", "--drop", "client-cert,server-ca").exits(exitOK)
	w.run("worker", "move", "guarded", "http://127.0.0.1:9").exits(exitOK)
}

func pair(chain, key string) (certificate, secret []byte) { return []byte(chain), []byte(key) }
