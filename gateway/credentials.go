package gateway

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/queue"
	"sluice/queue/vault"
	"sluice/queue/worker"
)

// newCredentialsView is what a worker is to be shown. It comes in, and never goes out.
type newCredentialsView struct {
	BearerToken       *string `json:"bearer_token,omitempty" doc:"Goes with each call, as Authorization: Bearer"`
	ClientCertificate *string `json:"client_certificate,omitempty" doc:"PEM, with its chain: shown as the connection is made (mTLS). It goes with client_key"`
	ClientKey         *string `json:"client_key,omitempty" doc:"PEM"`
	ServerCA          *string `json:"server_ca,omitempty" doc:"PEM of who vouches for the worker's own certificate, instead of the system's roots"`
}

func (v newCredentialsView) change(keys vault.Ring) queue.CredentialChange {
	return queue.CredentialChange{BearerToken: v.BearerToken, ClientCertificate: v.ClientCertificate, ClientKey: v.ClientKey, ServerCA: v.ServerCA, Vault: keys}
}

// kept is what a new worker has of it that may be seen.
func (v newCredentialsView) kept() queue.Credentials {
	return queue.Credentials{HasToken: textOf(v.BearerToken) != "", ClientCertificate: v.ClientCertificate, ServerCA: v.ServerCA}
}

// workerCredentialsView is what of them may be seen.
type workerCredentialsView struct {
	BearerToken       bool              `json:"bearer_token" doc:"Calls carry a bearer token"`
	ClientCertificate *certificateFacts `json:"client_certificate,omitempty" doc:"It is shown as the connection is made"`
	ServerCA          *certificateFacts `json:"server_ca,omitempty" doc:"Who vouches for the worker's own certificate; absent: the system's roots"`
}

type certificateFacts struct {
	Subject   string    `json:"subject" example:"CN=sluice"`
	ExpiresAt time.Time `json:"expires_at"`
}

func viewOfCredentials(c queue.Credentials) workerCredentialsView {
	return workerCredentialsView{BearerToken: c.HasToken, ClientCertificate: factsOf(c.ClientCertificate), ServerCA: factsOf(c.ServerCA)}
}

func factsOf(pem *string) *certificateFacts {
	if textOf(pem) == "" {
		return nil
	}
	facts := worker.FactsOf(*pem)
	return &certificateFacts{facts.Subject, facts.ExpiresAt.UTC()}
}

func (g *gateway) setWorkerCredentials(ctx context.Context, in *struct {
	WorkerPath
	Body newCredentialsView
}) (*answer[WorkerView], error) {
	var w queue.Inspected
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		if err = queue.SetCredentials(ctx, tx, by.TenantID, in.Worker, in.Body.change(g.config.Vault), by.Actor()); err != nil {
			return err
		}
		w, err = queue.FindWorker(ctx, tx, by.TenantID, in.Worker)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &answer[WorkerView]{viewOfWorker(w.Worker)}, nil
}
