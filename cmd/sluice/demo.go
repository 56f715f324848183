package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/queue"
	"sluice/queue/topology"
	"sluice/queue/vault"
	"sluice/queue/worker"
)

// The demo: a topology and the worker that does its work, a real HTTP server that is called as any other.

//go:embed demo.yaml
var demoFile []byte

const (
	demoName  = "demo" // of the topology and of the worker
	demoStart = "inbox"
	demoActor = "sluice dev"

	// demoEvent is what the printed command posts.
	demoEvent = `{"order":"ABC-123","items":[{"sku":"tea","quantity":2},{"sku":"cup","quantity":1},{"sku":"lamp","quantity":0}]}`
)

// demoOrder is what the demo takes in.
type demoOrder struct {
	Order string     `json:"order"`
	Items []demoItem `json:"items"`
}

// demoItem is what it passes on.
type demoItem struct {
	Order    string  `json:"order"`
	SKU      string  `json:"sku"`
	Quantity int     `json:"quantity"`
	Price    float64 `json:"price,omitempty"`
}

var demoPrices = map[string]float64{"tea": 4.5, "cup": 12, "lamp": 79}

// demoWork does what the nodes of the demo ask for.
func demoWork(_ context.Context, r *worker.Request) (worker.Reply, error) {
	if r.Action == "split" {
		return demoSplit(r.Body)
	}
	var item demoItem
	if err := json.Unmarshal(r.Body, &item); err != nil {
		return worker.Reply{}, demoRefusal("no item: %v", err)
	}
	switch r.Action {
	case "in-stock":
		if item.Quantity == 0 {
			return worker.Reply{Verdict: worker.Stop, Reason: "nothing was ordered of it"}, nil
		}
		return worker.Pass(), nil
	case "price":
		item.Price = demoPrices[item.SKU] * float64(item.Quantity)
		return worker.Send(demoMessage(item)), nil
	case "ship":
		if item.Quantity > 100 {
			return worker.Reply{}, demoRefusal("the warehouse ships at most 100 of one item, and this is %d of %s", item.Quantity, item.SKU)
		}
		return worker.Pass(), nil
	}
	return worker.Reply{}, demoRefusal("the demo has no action %q", r.Action)
}

func demoSplit(body []byte) (worker.Reply, error) {
	var order demoOrder
	if err := json.Unmarshal(body, &order); err != nil || len(order.Items) == 0 {
		return worker.Reply{}, demoRefusal(`no order: want {"order":"ABC-123","items":[{"sku":"tea","quantity":2}]}`)
	}
	messages := make([]worker.Message, len(order.Items))
	for i, item := range order.Items {
		item.Order = order.Order
		messages[i] = demoMessage(item)
	}
	return worker.Send(messages...), nil
}

func demoMessage(item demoItem) worker.Message {
	body, _ := json.Marshal(item) // texts and numbers always can
	return worker.Message{Body: body, Headers: map[string]string{"content-type": "application/json"}}
}

func demoRefusal(format string, args ...any) error {
	return &worker.Failure{Class: worker.Rejected, Reason: fmt.Sprintf(format, args...)}
}

// startDemoWorker registers the worker of the demo and serves it until the returned function is called.
func startDemoWorker(ctx context.Context, n *node, tenant int64) (stop func(), err error) {
	log := n.config.log
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the demo's worker: %w", err)
	}
	var secrets []worker.Secret
	err = pgx.BeginFunc(ctx, n.pool, func(tx pgx.Tx) (err error) {
		secrets, err = registerDemoWorker(ctx, tx, n.config.vault, tenant, "http://"+listener.Addr().String())
		return err
	})
	if err != nil {
		listener.Close()
		return nil, fmt.Errorf("register the demo's worker: %w", err)
	}
	server := &http.Server{
		Handler:           worker.Handler{Func: demoWork, Secrets: secrets},
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.ErrorContext(ctx, "Demo's worker stopped", "err", err)
		}
	}()
	return func() { server.Close(); <-served }, nil
}

// registerDemoWorker registers the worker, or moves it to its new address, and returns the secrets that sign calls.
func registerDemoWorker(ctx context.Context, tx pgx.Tx, keys vault.Ring, tenant int64, address string) ([]worker.Secret, error) {
	secrets, err := queue.WorkerSecrets(ctx, tx, keys, tenant, demoName)
	if errors.Is(err, queue.ErrNoWorker) {
		_, secret, err := queue.RegisterWorker(ctx, tx, tenant, queue.NewWorker{Name: demoName, URL: address, Vault: keys}, demoActor)
		return []worker.Secret{secret}, err
	}
	if err != nil {
		return nil, err
	}
	return secrets, queue.SetWorkerURL(ctx, tx, tenant, demoName, address, demoActor)
}

// publishDemo publishes and enables the demo's topology, unless that was done before: what the user has made of it
// since then is the user's.
func publishDemo(ctx context.Context, pool *pgxpool.Pool, tenant int64) error {
	graph, err := topology.Parse("demo.yaml", demoFile)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		versions, err := topology.Versions(ctx, tx, tenant, demoName, 0, 1000)
		if err != nil && !errors.Is(err, topology.ErrNotFound) {
			return err
		}
		for _, v := range versions {
			if v.Number > 0 && v.Source == string(demoFile) {
				return nil
			}
		}
		if _, err := topology.SaveDraft(ctx, tx, tenant, graph, string(demoFile), demoActor); err != nil {
			return err
		}
		if _, err := queue.Publish(ctx, tx, tenant, demoName, demoActor); err != nil {
			return err
		}
		_, err = topology.Enable(ctx, tx, tenant, demoName, 0, demoActor)
		return err
	})
}
