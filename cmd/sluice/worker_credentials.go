package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// credentialFlags name files with what a worker is shown of who calls. Secrets are in files alone: the command line is
// seen by everyone on the machine.
type credentialFlags struct {
	BearerTokenFile string `placeholder:"FILE" help:"A token that goes with each call, as Authorization: Bearer."`
	ClientCert      string `placeholder:"FILE" help:"A certificate, as PEM with its chain, that Sluice shows the worker (mTLS). With --client-key."`
	ClientKey       string `placeholder:"FILE" help:"The key of the certificate, as PEM."`
	ServerCA        string `name:"server-ca" placeholder:"FILE" help:"Who vouches for the worker's own certificate, as PEM, instead of the system's roots."`
}

// credentials are what the files hold, as the API takes it.
func (f credentialFlags) credentials() (map[string]string, error) {
	said := map[string]string{}
	for name, path := range map[string]string{
		"bearer_token": f.BearerTokenFile, "client_certificate": f.ClientCert, "client_key": f.ClientKey, "server_ca": f.ServerCA,
	} {
		if path == "" {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if said[name] = strings.TrimSpace(string(text)); said[name] == "" {
			return nil, usagef("%s is empty", path)
		}
	}
	return said, nil
}

type workerCredentialsCmd struct {
	apiFlags
	credentialFlags
	Name string   `arg:"" help:"Name of the worker."`
	Drop []string `enum:"bearer-token,client-cert,server-ca" placeholder:"WHAT,..." help:"What it is shown no more: ${enum}."`
}

func (workerCredentialsCmd) Help() string {
	return examples("What is not named stays. It holds within a second, without a restart. To change a token, let the worker take both, change it here, and drop the old one there.",
		"sluice worker credentials shop --bearer-token-file token",
		"sluice worker credentials shop --client-cert sluice.crt --client-key sluice.key --server-ca ca.crt",
		"sluice worker credentials shop --drop bearer-token")
}

func (c workerCredentialsCmd) Run(ctx context.Context, p *program, api *client) error {
	said, err := c.credentials()
	if err != nil {
		return err
	}
	for _, what := range c.Drop {
		for _, name := range map[string][]string{
			"bearer-token": {"bearer_token"}, "client-cert": {"client_certificate", "client_key"}, "server-ca": {"server_ca"},
		}[what] {
			said[name] = ""
		}
	}
	if len(said) == 0 {
		return usagef("nothing to change: give --bearer-token-file, --client-cert with --client-key, --server-ca or --drop")
	}
	shown, err := ask[workerView](ctx, api, request{method: http.MethodPut, path: pathOf("workers", c.Name, "credentials")}.jsonBody(said))
	if err != nil {
		return err
	}
	return p.print(shown, func(w io.Writer) {
		facts(w, append([]string{"Worker", shown.Shown.Name, "URL", shown.Shown.place()}, shown.Shown.Credentials.facts()...)...)
	})
}

// shownCredentials is what the API tells of a worker's credentials.
type shownCredentials struct {
	BearerToken       bool             `json:"bearer_token"`
	ClientCertificate *certificateView `json:"client_certificate"`
	ServerCA          *certificateView `json:"server_ca"`
}

type certificateView struct {
	Subject   string     `json:"subject"`
	ExpiresAt *time.Time `json:"expires_at"`
}

func (v *certificateView) text() string {
	if v == nil {
		return ""
	}
	return v.Subject + ", until " + when(v.ExpiresAt)
}

// facts are the credentials in pairs, as [facts] takes them.
func (s shownCredentials) facts() []string {
	token := ""
	if s.BearerToken {
		token = "set"
	}
	return []string{"Bearer token", token, "Client certificate", s.ClientCertificate.text(), "Server CA", s.ServerCA.text()}
}
