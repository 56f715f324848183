package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestWorker(t *testing.T) {
	for _, c := range []struct {
		action, token, body, says string
		status                    int
	}{
		{"/total", "secret", `{"price": 2.5, "quantity": 4}`, `{"total":10}`, http.StatusOK},
		{"/total", "secret", `{"price": 2.5, "quantity": 0}`, "more than 0", http.StatusUnprocessableEntity},
		{"/total", "secret", `nonsense`, "more than 0", http.StatusUnprocessableEntity},
		{"/other", "secret", `{}`, "not found", http.StatusNotFound},
		{"/total", "guess", `{"price": 2.5, "quantity": 4}`, "wrong token", http.StatusUnauthorized},
	} {
		r := httptest.NewRequest(http.MethodPost, c.action, strings.NewReader(c.body))
		r.Header.Set("Authorization", "Bearer "+c.token)
		w := httptest.NewRecorder()
		worker("secret").ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s %s: %d %s", c.action, c.body, w.Code, w.Body)
		}
	}
}
