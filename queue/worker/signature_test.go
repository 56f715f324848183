package worker_test

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/queue/worker"
)

func parse(t testing.TB, text string) worker.Secret {
	t.Helper()
	s, err := worker.ParseSecret(text)
	ok(t, err)
	return s
}

// The signature is that of Standard Webhooks. Its vector, computed without Go:
//
//	key=$(printf MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw | base64 -d | xxd -p -c 99)
//	printf %s 'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}' |
//	    openssl dgst -sha256 -mac HMAC -macopt hexkey:$key -binary | base64
func TestSignVector(t *testing.T) {
	t.Parallel()
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	at := time.Unix(1614265330, 0)
	body := []byte(`{"test": 2432232314}`)
	got := worker.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, body, []worker.Secret{parse(t, vectorSecret)})
	equal(t, "signature", got, want)
	ok(t, worker.Verify(http.Header{
		"Webhook-Id":        {"msg_p5jXN8AQM9LWM0D4loKWxJek"},
		"Webhook-Timestamp": {"1614265330"},
		"Webhook-Signature": {want},
	}, body, []worker.Secret{parse(t, vectorSecret)}, 0, at))
}

func TestVerify(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	body := []byte("the body")
	mine, other, third := worker.NewSecret(), worker.NewSecret(), worker.NewSecret()
	signed := func(at time.Time, secrets ...worker.Secret) http.Header {
		return http.Header{
			"Webhook-Id":        {"id-1"},
			"Webhook-Timestamp": {strconv.FormatInt(at.Unix(), 10)},
			"Webhook-Signature": {worker.Sign("id-1", at, body, secrets)},
		}
	}
	with := func(key string, values ...string) http.Header {
		h := signed(now, mine)
		h[key] = values
		return h
	}
	good := worker.Sign("id-1", now, body, []worker.Secret{mine})
	cases := []struct {
		name    string
		header  http.Header
		secrets []worker.Secret
		want    string // "" is good
	}{
		{"signed", signed(now, mine), []worker.Secret{mine}, ""},
		{"sender has changed over, worker has both", signed(now, other), []worker.Secret{mine, other}, ""},
		{"sender signs with both, worker has the old", signed(now, mine, other), []worker.Secret{mine}, ""},
		{"sender signs with both, worker has the new", signed(now, mine, other), []worker.Secret{other}, ""},
		{"next to versions unknown", with("Webhook-Signature", "v1a,AAAA "+good+" v2,xx"), []worker.Secret{mine}, ""},
		{"just old enough", signed(now.Add(-5*time.Minute), mine), []worker.Secret{mine}, ""},
		{"just new enough", signed(now.Add(5*time.Minute), mine), []worker.Secret{mine}, ""},
		{"too old", signed(now.Add(-5*time.Minute-time.Second), mine), []worker.Secret{mine}, "too old"},
		{"from the future", signed(now.Add(5*time.Minute+time.Second), mine), []worker.Secret{mine}, "future"},
		{"another's secret", signed(now, other, third), []worker.Secret{mine}, "no signature matches"},
		{"no secret here", signed(now, mine), nil, "no signature matches"},
		{"a zero secret here", signed(now, mine), []worker.Secret{{}}, "no signature matches"},
		{"another id", with("Webhook-Id", "id-2"), []worker.Secret{mine}, "no signature matches"},
		{"another second", with("Webhook-Timestamp", strconv.FormatInt(now.Unix()+1, 10)), []worker.Secret{mine}, "no signature matches"},
		{"another version", with("Webhook-Signature", "v2"+good[2:]), []worker.Secret{mine}, "no signature matches"},
		{"no base64", with("Webhook-Signature", good+"!"), []worker.Secret{mine}, "no signature matches"},
		{"half of it", with("Webhook-Signature", good[:len(good)/2]), []worker.Secret{mine}, "no signature matches"},
		{"empty signature", with("Webhook-Signature", "v1,"), []worker.Secret{mine}, "no signature matches"},
		{"no id", with("Webhook-Id"), []worker.Secret{mine}, "Webhook-Id"},
		{"two ids", with("Webhook-Id", "id-1", "id-2"), []worker.Secret{mine}, "Webhook-Id"},
		{"no time", with("Webhook-Timestamp", ""), []worker.Secret{mine}, "Webhook-Timestamp"},
		{"no signature", with("Webhook-Signature"), []worker.Secret{mine}, "Webhook-Signature"},
		{"two lines of signatures", with("Webhook-Signature", good, good), []worker.Secret{mine}, "Webhook-Signature"},
		{"a negative time", with("Webhook-Timestamp", "-5"), []worker.Secret{mine}, "no number"},
		{"a time with a fraction", with("Webhook-Timestamp", "1700000000.5"), []worker.Secret{mine}, "no number"},
		{"a time past all", with("Webhook-Timestamp", "9223372036854775807"), []worker.Secret{mine}, "no number"},
		{"a time that would wrap", with("Webhook-Timestamp", "4611686018427387903"), []worker.Secret{mine}, "future"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := worker.Verify(c.header, body, c.secrets, 0, now)
			switch {
			case c.want == "":
				ok(t, err)
			case !errors.Is(err, worker.ErrSignature) || !strings.Contains(err.Error(), c.want):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if err := worker.Verify(signed(now, mine), []byte("the Body"), []worker.Secret{mine}, 0, now); err == nil {
		t.Error("another body was taken")
	}
	if err := worker.Verify(signed(now, mine), body, []worker.Secret{mine}, time.Second, now.Add(2*time.Second)); err == nil {
		t.Error("the tolerance was not kept")
	}
}

// No header makes Verify panic, and none that was not made with the secret is
// taken.
func FuzzVerify(f *testing.F) {
	secret, now := worker.NewSecret(), time.Unix(1_700_000_000, 0)
	good := worker.Sign("id", now, []byte("body"), []worker.Secret{secret})
	f.Add("id", "1700000000", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", []byte("body"))
	f.Add("id", "1700000000", "v1, v1,,v1", []byte("body"))
	f.Add("", "-1", " ", []byte(nil))
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte) {
		header := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {signature}}
		if worker.Verify(header, body, []worker.Secret{secret}, 0, now) == nil {
			t.Fatal("a forgery was taken")
		}
		// Noise around a good signature does not spoil it.
		if !strings.ContainsAny(signature, "\r\n") {
			header = http.Header{"Webhook-Id": {"id"}, "Webhook-Timestamp": {"1700000000"}, "Webhook-Signature": {signature + " " + good + " " + signature}}
			ok(t, worker.Verify(header, []byte("body"), []worker.Secret{secret}, 0, now))
		}
	})
}
