// A worker of Sluice: an HTTP server whose paths are the actions that topologies name. AGENTS.md has the contract.
package main

import (
	"cmp"
	"crypto/subtle"
	"encoding/json"
	"log"
	"net/http"
	"os"
)

// total is what the node of that name does: from the body of a message to the body of the next one.
func total(w http.ResponseWriter, r *http.Request) {
	var line struct{ Price, Quantity float64 }
	if err := json.NewDecoder(r.Body).Decode(&line); err != nil || line.Quantity <= 0 {
		http.Error(w, "quantity must be more than 0", http.StatusUnprocessableEntity) // trying again would not help
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]float64{"total": line.Price * line.Quantity})
}

// worker lets in who has the token; without one, nobody.
func worker(token string) http.Handler {
	actions := http.NewServeMux()
	actions.HandleFunc("POST /total", total)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+token)) != 1 {
			http.Error(w, "wrong token", http.StatusUnauthorized)
			return
		}
		actions.ServeHTTP(w, r)
	})
}

func main() {
	log.Fatal(http.ListenAndServe("127.0.0.1:"+cmp.Or(os.Getenv("PORT"), "9000"), worker(os.Getenv("SLUICE_TOKEN"))))
}
