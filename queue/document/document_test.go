package document_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/migrations/pgtest"
	"sluice/queue/document"
	"sluice/queue/vault"
)

// shelf is a store with a database of its own, as a worker uses it.
type shelf struct {
	t     *testing.T
	pool  *pgxpool.Pool
	store *document.Store
	key   string
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{t: t, pool: pgtest.New(t).Pool(), key: vault.NewKey()}
	s.store = s.with(s.key)
	return s
}

// with is a store on the same database with other keys.
func (s *shelf) with(keys ...string) *document.Store {
	s.t.Helper()
	ring, err := vault.Parse(strings.Join(keys, ","))
	ok(s.t, err)
	return document.New(ring)
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *shelf) save(kind document.Kind, body string) {
	s.t.Helper()
	ok(s.t, s.store.Save(s.t.Context(), s.pool, 1, kind, []byte(body)))
}

// find returns what a worker gets for a filter, written as the SDK does.
func (s *shelf) find(kind document.Kind, query string) []map[string]any {
	s.t.Helper()
	f, err := document.ParseQuery(kind, strings.ReplaceAll(query, `"`, "%22"))
	ok(s.t, err)
	text, err := s.store.Find(s.t.Context(), s.pool, 1, kind, f)
	ok(s.t, err)
	var found []map[string]any
	ok(s.t, json.Unmarshal(text, &found))
	if found == nil {
		s.t.Fatalf("%s is no array", text)
	}
	return found
}

// users are those of what a filter finds.
func (s *shelf) users(query string) string {
	s.t.Helper()
	var all []string
	for _, d := range s.find(document.Installs, query) {
		all = append(all, d["user"].(string))
	}
	return strings.Join(all, " ")
}

func (s *shelf) remove(kind document.Kind, query string) int64 {
	s.t.Helper()
	f, err := document.ParseQuery(kind, query)
	ok(s.t, err)
	n, err := s.store.Delete(s.t.Context(), s.pool, 1, kind, f)
	ok(s.t, err)
	return n
}

const install = `[{"_id":"","user":"user-1","key":"sample-app","enabled":false,"deleted":false,"created":"2026-11-22T15:13:38.000Z","updated":"2026-11-22T15:13:38.000Z","encryptedSettings":"","nonEncryptedSettings":{}}]`

var isoTime = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)

// An install lives as the SDK makes it live: made, found, changed in part, deleted.
func TestInstall(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.save(document.Installs, install)
	s.save(document.Installs, install) // what a user has once is not there twice
	const mine = `filter={"users":["user-1"],"enabled":null,"names":["sample-app"]}`
	found := s.find(document.Installs, mine)
	if len(found) != 1 {
		t.Fatalf("found %v", found)
	}
	d := found[0]
	id := d["_id"].(string)
	if !regexp.MustCompile(`^[0-9a-f]{24}$`).MatchString(id) || !isoTime.MatchString(d["created"].(string)) || !isoTime.MatchString(d["updated"].(string)) {
		t.Errorf("%v", d)
	}
	for name, want := range map[string]any{"user": "user-1", "key": "sample-app", "enabled": false, "deleted": false, "encryptedSettings": ""} {
		if d[name] != want {
			t.Errorf("%s is %v, want %v", name, d[name], want)
		}
	}
	if _, has := d["expires"]; has {
		t.Error("it expires")
	}
	if n := len(s.find(document.Installs, `filter={"users":["user-1"],"names":["sample-app"]}`)); n != 0 {
		t.Error("one that is not enabled is found where nothing is said about that")
	}

	s.save(document.Installs, fmt.Sprintf(`{"_id":%q,"enabled":true,"created":"Invalid DateTime","encryptedSettings":"002_ab:cd","nonEncryptedSettings":{"shop":{"id":7}},"expires":"2026-11-22T16:13:58.000Z"}`, id))
	d = s.find(document.Installs, `filter={"users":["user-1"],"enabled":true,"names":["sample-app"]}`)[0]
	if d["encryptedSettings"] != "002_ab:cd" || d["expires"] != "2026-11-22T16:13:58.000Z" || fmt.Sprint(d["nonEncryptedSettings"]) != "map[shop:map[id:7]]" || d["user"] != "user-1" {
		t.Errorf("%v", d)
	}
	var kept string
	ok(t, s.pool.QueryRow(t.Context(), `select row_to_json(i)::text from sluice.application_install i`).Scan(&kept))
	if strings.Contains(kept, "002_ab") {
		t.Error("the settings are in the database as they came")
	}
	s.save(document.Installs, fmt.Sprintf(`[{"_id":%q,"expires":null},{"_id":%[1]q,"enabled":false},{"_id":%[1]q,"enabled":true}]`, id))
	if d = s.find(document.Installs, mine)[0]; d["expires"] != nil || d["enabled"] != true || d["encryptedSettings"] != "002_ab:cd" {
		t.Errorf("%v", d)
	}
	s.save(document.Installs, `{"_id":"aaaaaaaaaaaaaaaaaaaaaaaa","user":"x","key":"x"}`) // there is none, and there is none then
	s.save(document.Installs, `{"_id":"mine","user":"x","key":"x"}`)
	if n := len(s.find(document.Installs, `filter={"enabled":null,"deleted":true}`)); n != 1 {
		t.Errorf("%d installs", n)
	}

	if n := s.remove(document.Installs, `filter={"ids":["`+id+`"],"enabled":null}`); n != 1 {
		t.Errorf("%d deleted", n)
	}
	if n := s.remove(document.Installs, `filter={"ids":["`+id+`"],"enabled":null}`); n != 0 {
		t.Errorf("%d deleted again", n)
	}
	s.save(document.Installs, fmt.Sprintf(`{"_id":%q,"deleted":false,"user":"late"}`, id)) // by one who has an old copy
	if n := len(s.find(document.Installs, mine)); n != 0 {
		t.Errorf("%d found of what was deleted", n)
	}
	gone := s.find(document.Installs, `filter={"deleted":true,"enabled":null}`)
	if len(gone) != 1 || !isoTime.MatchString(fmt.Sprint(gone[0]["deleted"])) || gone[0]["user"] != "user-1" {
		t.Errorf("%v", gone)
	}
	s.save(document.Installs, install) // and again
	if n := len(s.find(document.Installs, mine)); n != 1 {
		t.Errorf("%d found of what was installed again", n)
	}
}

// Each filter finds what Orchesty's would.
func TestFilters(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.save(document.Installs, `[
		{"user":"a","key":"crm","enabled":true,"expires":"2026-01-01T00:00:00.000Z","nonEncryptedSettings":{"shop":{"id":1},"mode":"live"}},
		{"user":"b","key":"crm","enabled":false,"expires":"2026-02-01T00:00:00.000+02:00"},
		{"user":"c","key":"erp","enabled":true,"sdk":"second","nonEncryptedSettings":{"mode":"test"}},
		{"user":"d & + 50% ☃","key":"erp","enabled":true,"expires":"some day"}]`)
	for query, want := range map[string]string{
		"":                           "a c d & + 50% ☃",
		"filter=undefined":           "a c d & + 50% ☃",
		"filter={}":                  "a c d & + 50% ☃",
		`filter={"enabled":null}`:    "a b c d & + 50% ☃",
		`filter={"enabled":false}`:   "a b c d & + 50% ☃",
		`filter={"enabled":true}`:    "a c d & + 50% ☃",
		`filter={"users":["a","b"]}`: "a",
		`filter={"users":"c"}`:       "c",
		`filter={"users":[]}`:        "",
		`filter={"names":["crm"],"enabled":null}`:                              "a b",
		`filter={"names":{"nin":["crm"]}}`:                                     "c d & + 50% ☃",
		`filter={"sdks":["second"]}`:                                           "c",
		`filter={"users":["d & + 50% ☃"]}`:                                     "d & + 50% ☃",
		`filter={"users":["d & + 50% ☃"]}&sorter={"created":"asc"}`:            "d & + 50% ☃",
		`filter={"expires":"2026-01-01T00:00:00.000Z","enabled":true}`:         "a",
		`filter={"expires":"2025-12-31T23:59:59.999Z","enabled":null}`:         "",
		`filter={"expires":"2026-01-31T22:00:00.000Z","enabled":null}`:         "a b",
		`filter={"nonEncrypted":{"mode":"live"}}`:                              "a",
		`filter={"nonEncrypted":{"mode":{"in":["live","test"]}}}`:              "a c",
		`filter={"nonEncrypted":{"mode":{"nin":["live"]}}}`:                    "c d & + 50% ☃",
		`filter={"nonEncrypted":{"shop.id":1}}`:                                "a",
		`filter={"nonEncrypted":{"shop.id":["1"]}}`:                            "",
		`filter={"enabled":null}&paging={"limit":2,"offset":1}`:                "b c",
		`filter={"enabled":null}&sorter={"created":"desc"}&paging={"limit":1}`: "LAST",
		`filter={"enabled":null}&paging={}`:                                    "a b c d & + 50% ☃",
	} {
		got := s.users(query)
		if want == "LAST" { // all were made at once, and their ids are random
			if len(strings.Fields(got)) == 0 {
				t.Errorf("%s: none", query)
			}
			continue
		}
		if strings.Contains(query, "paging") && strings.Contains(query, "offset") {
			if n := len(s.find(document.Installs, query)); n != 2 {
				t.Errorf("%s: %d", query, n)
			}
			continue
		}
		if !sameWords(got, want) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	for _, query := range []string{
		`filter={"ids":["x"]}`, `filter={"ids":[""]}`, `filter={"ids":[1]}`, `filter={"apps":["x"]}`, `filter={"users":[{}]}`, `filter={"users":{"nin":["a"]}}`,
		`filter={`, `filter=[1]`, `filter=1`, `filter={"expires":"soon"}`, `filter={"expires":1}`, `filter={"nonEncrypted":"x"}`, `filter={"nonEncrypted":{"x":"\u0000"}}`,
		`filter={"users":["\u0000"]}`, `paging={"limit":-1}`, `paging={"offset":"x"}`, `paging=x`, `sorter=x`, "filter=%00", `filter={"users":["a` + "\x00" + `"]}`,
	} {
		if _, err := document.ParseQuery(document.Installs, query); !errors.Is(err, document.ErrInvalid) {
			t.Errorf("%q: %v", query, err)
		}
	}
	if _, err := document.ParseQuery(document.Nodes, `filter={"users":["a"]}`); !errors.Is(err, document.ErrInvalid) {
		t.Errorf("nodes of users: %v", err)
	}
	if _, err := document.ParseQuery("Sdk", ""); !errors.Is(err, document.ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
	for _, f := range []document.Filter{{}, {Enabled: true, Deleted: true}} {
		if _, err := s.store.DeleteInstalls(t.Context(), s.pool, 1, f); !errors.Is(err, document.ErrInvalid) || !strings.Contains(err.Error(), "Empty filter is not supported") {
			t.Errorf("deletes all: %v", err)
		}
	}
}

// sameWords tells whether two lists have the same users, in whatever order: they were made in one statement.
func sameWords(a, b string) bool {
	const odd = "d & + 50% ☃"
	count := map[string]int{}
	for word := range strings.FieldsSeq(strings.ReplaceAll(a, odd, "odd")) {
		count[word]++
	}
	for word := range strings.FieldsSeq(strings.ReplaceAll(b, odd, "odd")) {
		count[word]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

const webhook = `[{"_id":"","name":"order.created","user":"user-1","token":"4c84ee1bb67d05657cb133fd1faff0349b490ae1d00a812b66","node":"webhook-node","topology":"my-topology","application":"sample-webhook","webhookId":"ext-webhook-1","unsubscribeFailed":false,"deleted":false}]`

// A webhook is found by its token, by whoever has all of it, as long as it is subscribed.
func TestWebhook(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.save(document.Webhooks, webhook)
	s.save(document.Webhooks, strings.NewReplacer("4c84", "2b07", `"ext-webhook-1"`, "17", "order.created", "order.deleted").Replace(webhook))
	const mine = `filter={"apps":["sample-webhook"],"users":["user-1"]}`
	found := s.find(document.Webhooks, mine)
	if len(found) != 2 || found[0]["name"] != "order.created" || found[0]["webhookId"] != "ext-webhook-1" || found[1]["webhookId"] != "17" || found[0]["unsubscribeFailed"] != false || found[0]["deleted"] != false {
		t.Fatalf("%v", found)
	}
	const token = "4c84ee1bb67d05657cb133fd1faff0349b490ae1d00a812b66"
	if found[0]["token"] != token {
		t.Errorf("token %v", found[0]["token"])
	}
	hooks := func(token string) []document.Hook {
		t.Helper()
		all, err := s.store.FindHooks(t.Context(), s.pool, token)
		ok(t, err)
		return all
	}
	all := hooks(token)
	if len(all) != 1 || all[0].Tenant != 1 || all[0].User != "user-1" {
		t.Fatalf("%+v", all)
	}
	for _, c := range []struct {
		topology, node, token string
		is                    bool
	}{
		{"my-topology", "webhook-node", token, true}, {"other", "webhook-node", token, false}, {"my-topology", "other", token, false},
		{"my-topology", "webhook-node", token[1:], false}, {"my-topology", "webhook-node", "", false},
	} {
		if all[0].Is(c.topology, c.node, c.token) != c.is {
			t.Errorf("%+v", c)
		}
	}
	for _, other := range []string{"", token[1:], strings.ToUpper(token)} {
		if len(hooks(other)) != 0 {
			t.Errorf("found by %q", other)
		}
	}
	var kept string
	ok(t, s.pool.QueryRow(t.Context(), `select string_agg(row_to_json(w)::text, '') from sluice.webhook w`).Scan(&kept))
	if strings.Contains(kept, token) {
		t.Error("the token is in the database as it came")
	}
	id := found[0]["_id"].(string)
	s.save(document.Webhooks, fmt.Sprintf(`{"_id":%q,"unsubscribeFailed":true}`, id))
	if len(hooks(token)) != 0 || s.find(document.Webhooks, `filter={"ids":["`+id+`"]}`)[0]["unsubscribeFailed"] != true {
		t.Error("one that could not be unsubscribed goes on working")
	}
	s.save(document.Webhooks, fmt.Sprintf(`{"_id":%q,"unsubscribeFailed":false}`, id))
	if len(hooks(token)) != 1 {
		t.Error("not found again")
	}
	if n := s.remove(document.Webhooks, `filter={"ids":["`+id+`"]}`); n != 1 || len(hooks(token)) != 0 {
		t.Error("one that was unsubscribed goes on working")
	}
}

// A key is changed while all goes on, and what cannot be opened is told so.
func TestReseal(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.save(document.Installs, strings.Replace(install, `"encryptedSettings":""`, `"encryptedSettings":"002_x"`, 1))
	s.save(document.Webhooks, webhook)
	next := vault.NewKey()
	after := s.with(next, s.key)
	for want := int64(2); want >= 0; want -= 2 {
		if n, err := after.Reseal(t.Context(), s.pool); err != nil || n != want {
			t.Errorf("%d sealed anew, want %d: %v", n, want, err)
		}
	}
	if _, err := s.store.Installs(t.Context(), s.pool, 1, document.Filter{}); !errors.Is(err, vault.ErrSealed) {
		t.Errorf("with the old key: %v", err)
	}
	if _, err := s.with().Installs(t.Context(), s.pool, 1, document.Filter{}); !errors.Is(err, vault.ErrNoKey) {
		t.Errorf("with none: %v", err)
	}
	if _, err := s.with().Reseal(t.Context(), s.pool); !errors.Is(err, vault.ErrNoKey) {
		t.Errorf("with none: %v", err)
	}
	s.store = s.with(next)
	if found := s.find(document.Installs, `filter={"enabled":null}`); len(found) != 1 || found[0]["encryptedSettings"] != "002_x" {
		t.Errorf("%v", found)
	}
	// A secret that somebody puts elsewhere in the database does not open there.
	s.save(document.Installs, strings.NewReplacer("user-1", "mallory", `"encryptedSettings":""`, `"encryptedSettings":"002_y"`).Replace(install))
	_, err := s.pool.Exec(t.Context(), `
		update sluice.application_install i set settings = v.settings from sluice.application_install v where i.user_name = 'mallory' and v.user_name = 'user-1'`)
	ok(t, err)
	if _, err := s.store.Installs(t.Context(), s.pool, 1, document.Filter{Users: []string{"mallory"}}); !errors.Is(err, vault.ErrSealed) {
		t.Errorf("another's settings: %v", err)
	}
}

// The engine's own way to installs keeps the same rules.
func TestSaveInstall(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	i, err := s.store.SaveInstall(t.Context(), s.pool, 1, document.Install{User: "u", Application: "crm", Settings: "002_x", Expires: "2026-01-01T00:00:00Z"})
	ok(t, err)
	if _, err := s.store.SaveInstall(t.Context(), s.pool, 1, document.Install{User: "u", Application: "crm"}); !errors.Is(err, document.ErrExists) {
		t.Errorf("twice: %v", err)
	}
	i.Enabled, i.Expires = true, ""
	_, err = s.store.SaveInstall(t.Context(), s.pool, 1, i)
	ok(t, err)
	found, err := s.store.Installs(t.Context(), s.pool, 1, document.Filter{Enabled: true})
	ok(t, err)
	if len(found) != 1 || found[0].Settings != "002_x" || found[0].Expires != "" || found[0].CreatedAt.IsZero() {
		t.Errorf("%+v", found)
	}
	_, err = s.store.DeleteInstalls(t.Context(), s.pool, 1, document.Filter{Users: []string{"u"}})
	ok(t, err)
	if _, err := s.store.SaveInstall(t.Context(), s.pool, 1, i); !errors.Is(err, document.ErrNotFound) {
		t.Errorf("after it was deleted: %v", err)
	}
	if _, err := s.with().SaveInstall(t.Context(), s.pool, 1, document.Install{User: "v", Application: "crm", Settings: "002_x"}); !errors.Is(err, vault.ErrNoKey) {
		t.Errorf("without a key: %v", err)
	}
}

// What cannot be stored is refused, whatever it is, and never as a trouble of the database.
func TestRefusedDocuments(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	for _, kind := range []document.Kind{document.Installs, document.Webhooks} {
		for _, body := range []string{
			"", "null", "[null]", "x", `"x"`, "[[]]", "{", `[{"user":"a"}]`, `{"user":{},"key":"a"}`, `{"user":"\u0000","key":"a","application":"a","token":"t"}`,
			`{"user":"a","key":"` + strings.Repeat("k", 501) + `","application":"` + strings.Repeat("k", 501) + `"}`, `{"_id":{},"user":"a"}`,
			"[" + strings.Repeat(`{"user":"a"},`, 1000) + `{"user":"a"}]`, strings.Repeat("[", 20_000),
		} {
			if err := s.store.Save(t.Context(), s.pool, 1, kind, []byte(body)); !errors.Is(err, document.ErrInvalid) {
				t.Errorf("%s %.60q: %v", kind, body, err)
			}
		}
	}
	for _, plain := range []string{`"x"`, "7", `{"a":"\u0000"}`, `{"a":"\ud800"}`, `{"a":1e999999}`} {
		if err := s.store.Save(t.Context(), s.pool, 1, document.Installs, []byte(`{"user":"a","key":"a","nonEncryptedSettings":`+plain+`}`)); !errors.Is(err, document.ErrInvalid) {
			t.Errorf("%s: %v", plain, err)
		}
	}
	if err := s.store.Save(t.Context(), s.pool, 1, document.Nodes, []byte("[]")); !errors.Is(err, document.ErrUnknown) {
		t.Errorf("a node: %v", err)
	}
	s.save(document.Installs, "[]")
	s.save(document.Installs, `[{"user":"a","key":"a"},{"user":"b","key":"a"}]`)
	found := s.find(document.Installs, `filter={"enabled":null,"users":["a"]}`)
	err := s.store.Save(t.Context(), s.pool, 1, document.Installs, fmt.Appendf(nil, `{"_id":%q,"user":"b"}`, found[0]["_id"]))
	if !errors.Is(err, document.ErrExists) {
		t.Errorf("another's place is taken: %v", err)
	}
}

// Whatever stands in a query, and whatever a worker writes, is answered or refused.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		"", "filter=undefined", `filter={%22users%22:[%22user-1%22],%22enabled%22:null}`, `filter={"names":{"nin":["a"]}}&sorter={"created":"desc"}&paging={"limit":1}`,
		`filter={"users":["a&b=c"]}`, "%", "%zz", "filter=%7B%7D", `filter={"nonEncrypted":{"a.b":{"in":[1,null]}},"expires":"2026-01-01"}`, "\x00\xff", "paging=&&filter=",
	} {
		f.Add(seed)
	}
	pool, err := pgxpool.New(context.Background(), pgtest.New(f).URL)
	ok(f, err)
	f.Cleanup(pool.Close)
	store := document.New(vault.Ring{})
	f.Fuzz(func(t *testing.T, query string) {
		for _, kind := range []document.Kind{document.Installs, document.Webhooks, document.Nodes} {
			filter, err := document.ParseQuery(kind, query)
			switch {
			case err != nil && !errors.Is(err, document.ErrInvalid):
				t.Fatalf("%q: %v", query, err)
			case err != nil || kind == document.Nodes:
				continue
			}
			if _, err := store.Find(t.Context(), pool, 1, kind, filter); err != nil && !errors.Is(err, document.ErrInvalid) {
				t.Fatalf("%q: %v", query, err)
			}
		}
	})
}
