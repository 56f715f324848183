package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"sluice/gateway/auth"
	"sluice/openapi"
)

const (
	keysPath = "/v1/keys"
	keyPath  = "/v1/keys/{key_id}"
)

// KeyView is an API key as the contract shows it.
type KeyView struct {
	ID        int64      `json:"id"`
	Name      string     `json:"name"`
	PublicID  string     `json:"public_id" doc:"The part of the key between its underscores, by which it can be told from others"`
	Scopes    []string   `json:"scopes" enum:"ingest,worker,pull,operate,admin"`
	Worker    string     `json:"worker,omitempty" doc:"The only one whose calls it takes"`
	CreatedAt time.Time  `json:"created_at"`
	CreatedBy string     `json:"created_by"`
	RevokedAt *time.Time `json:"revoked_at,omitempty" doc:"Absent: it is good"`
}

type newKeyView struct {
	Name   string   `json:"name" minLength:"1" maxLength:"200" doc:"What it is for, for people" example:"shop"`
	Scopes []string `json:"scopes" enum:"ingest,worker,pull,operate,admin" minItems:"1" maxItems:"5" doc:"ingest posts events; worker is for workers on Orchesty's SDK, and keeps their documents too; pull takes the calls of workers that cannot be reached; operate also runs what is there; admin may do everything"`
	Worker string   `json:"worker,omitempty" maxLength:"63" doc:"With the scope pull alone: the only worker whose calls it takes"`
}

type createdKeyView struct {
	KeyView
	Key string `json:"key" doc:"The key itself. It is not shown again" example:"sluice_…"`
}

func (g *gateway) addKeys() {
	tags, change := []string{"keys"}, openapi.Scope("admin")
	register(g, huma.Operation{
		OperationID: "list-keys", Method: http.MethodGet, Path: keysPath, Tags: tags, Security: change,
		Summary: "List API keys", Description: "In the order in which they were made, those that were revoked too.",
	}, g.listKeys)
	register(g, huma.Operation{
		OperationID: "create-key", Method: http.MethodPost, Path: keysPath, Tags: tags, Security: change, DefaultStatus: http.StatusCreated,
		Summary: "Make an API key",
	}, g.createKey)
	register(g, huma.Operation{
		OperationID: "revoke-key", Method: http.MethodDelete, Path: keyPath, Tags: tags, Security: change,
		Summary: "Make a key worthless", Description: "Every node refuses it within a second. To revoke it again changes nothing.",
	}, g.revokeKey)
}

func viewOfKey(k auth.Key) KeyView {
	return KeyView{
		ID: k.ID, Name: k.Name, PublicID: k.PublicID, Scopes: k.Scopes.Strings(), Worker: textOf(k.Worker), CreatedAt: k.CreatedAt.UTC(), CreatedBy: k.CreatedBy, RevokedAt: utc(k.RevokedAt),
	}
}

func (g *gateway) listKeys(ctx context.Context, in *struct{ openapi.Page }) (*answer[openapi.List[KeyView]], error) {
	var after int64
	if err := in.Cursor(&after); err != nil {
		return nil, err
	}
	var keys []auth.Key
	err := g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		keys, err = auth.ListKeys(ctx, tx, by.TenantID, after, in.Limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	views := make([]KeyView, len(keys))
	for i, k := range keys {
		views[i] = viewOfKey(k)
	}
	list, err := openapi.Cut(views, in.Page, func(last KeyView) []any { return []any{last.ID} })
	return &answer[openapi.List[KeyView]]{list}, err
}

func (g *gateway) createKey(ctx context.Context, in *answer[newKeyView]) (*answer[createdKeyView], error) {
	scopes, err := auth.ParseScopes(in.Body.Scopes)
	if err != nil {
		return nil, err
	}
	var key auth.Key
	var text string
	err = g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) (err error) {
		key, text, err = auth.CreateKeyFor(ctx, tx, auth.NewKey{Tenant: by.TenantID, Name: in.Body.Name, Scopes: scopes, Worker: in.Body.Worker}, by.Actor())
		return err
	})
	if err != nil {
		return nil, err
	}
	return &answer[createdKeyView]{createdKeyView{KeyView: viewOfKey(key), Key: text}}, nil
}

func (g *gateway) revokeKey(ctx context.Context, in *struct {
	ID int64 `path:"key_id" minimum:"1" doc:"Id of the key"`
}) (*struct{}, error) {
	return nil, g.asTenant(ctx, func(tx pgx.Tx, by auth.Principal) error {
		return auth.RevokeKey(ctx, tx, by.TenantID, in.ID, by.Actor())
	})
}
