// Package ui is the admin UI: a program for browsers, built from src into dist, which is committed, so that whoever
// builds Sluice needs Go alone.
//
// It sees nothing but the public API, through a client that is generated from our own OpenAPI document. This package
// serves its files and knows nothing else: what a person may see, the API decides. Files under assets are named after
// their content and may be kept for ever; the page that names them is asked for each time. Everything comes from here,
// no script but ours runs, and no other site may frame it.
package ui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
)

//go:embed all:dist
var dist embed.FS

// Path is where the UI is served.
const Path = "/ui/"

// policy is what the browser holds the page to. What payloads and causes say is text of others: if some of it ever came
// to stand in the page as HTML, it could run nothing and send nothing anywhere.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

const page = "index.html"

// file is one of dist as it goes out.
type file struct {
	body, zipped []byte // zipped is nil if that would not be smaller
	tag          string
	contentType  string
	cache        string
}

// files reads all of dist, once.
var files = sync.OnceValue(func() map[string]file {
	all := map[string]file{}
	root, err := fs.Sub(dist, "dist")
	if err == nil {
		err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			body, err := fs.ReadFile(root, name)
			all[name] = fileOf(name, body)
			return err
		})
	}
	if err != nil {
		panic(err) // of what is in the program itself: never
	}
	return all
})

func fileOf(name string, body []byte) file {
	sum := sha256.Sum256(body)
	f := file{
		body: body, zipped: zip(body), tag: `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`,
		contentType: typeOf(name), cache: "no-cache",
	}
	if strings.HasPrefix(name, "assets/") {
		f.cache = "public, max-age=31536000, immutable"
	}
	return f
}

// typeOf does not ask the system: its tables differ from one to the other.
func typeOf(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	return "application/octet-stream"
}

func zip(body []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	_, err := w.Write(body)
	if err != nil || w.Close() != nil || b.Len() >= len(body) {
		return nil
	}
	return b.Bytes()
}

// Handler serves the UI below [Path]. A path that is none of its files is a screen's, whose address the page itself
// reads: it gets the page, if a browser wants to show something. Anything else is not found, and missing says so.
func Handler(missing http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := files()[strings.TrimPrefix(r.URL.Path, Path)]
		if !ok && WantsPage(r) && !strings.HasPrefix(r.URL.Path, Path+"assets/") {
			f, ok = files()[page]
		}
		if !ok {
			missing.ServeHTTP(w, r)
			return
		}
		f.serve(w, r)
	})
}

// WantsPage tells whether a request is a browser's that is to show something: scripts and tools ask for other types.
func WantsPage(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && strings.Contains(r.Header.Get("Accept"), "text/html")
}

func (f file) serve(w http.ResponseWriter, r *http.Request) {
	body, tag := f.body, f.tag
	h := w.Header()
	h.Set("Vary", "Accept, Accept-Encoding")
	if f.zipped != nil && acceptsGzip(r) {
		body, tag = f.zipped, strings.TrimSuffix(f.tag, `"`)+`-gzip"`
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Type", f.contentType)
	h.Set("Cache-Control", f.cache)
	h.Set("ETag", tag)
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	if matches(r.Header.Get("If-None-Match"), tag) {
		h.Del("Content-Encoding")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that left is no one to tell
	}
}

// acceptsGzip reads no weights but the one that says never.
func acceptsGzip(r *http.Request) bool {
	for coding := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, weight, _ := strings.Cut(strings.TrimSpace(coding), ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			return strings.ReplaceAll(weight, " ", "") != "q=0"
		}
	}
	return false
}

func matches(header, tag string) bool {
	for one := range strings.SplitSeq(header, ",") {
		if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == tag || one == "*" {
			return true
		}
	}
	return false
}
