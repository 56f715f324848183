package worker_test

import (
	"context"
	"errors"
	"io"
	"log"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/queue/worker"
)

func TestMain(m *testing.M) {
	// net/http logs what a worker sends without being asked, and that is tested.
	log.SetOutput(io.Discard)
	goleak.VerifyTestMain(m)
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

func newClient(t testing.TB, config worker.Config) *worker.Client {
	c := worker.NewClient(config)
	t.Cleanup(c.Close)
	return c
}

// request is a call as any other; deadlines are short where a test meets one.
func request() worker.Request {
	return worker.Request{
		Action:        "enrich",
		MessageID:     "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60-4711",
		CorrelationID: "0193a5b2-7f3c-7c11-9f3e-1b2c3d4e5f60",
		Topology:      "orders",
		Version:       3,
		Node:          "enrich",
		Attempt:       1,
		Headers:       map[string]string{"content-type": "application/json", "x-source": "shop"},
		Body:          []byte(`{"order": 17}`),
		Deadline:      time.Now().Add(10 * time.Second),
	}
}

// fails calls and returns the failure, which there must be.
func fails(t testing.TB, ctx context.Context, c *worker.Client, target worker.Target, r worker.Request) *worker.Failure {
	t.Helper()
	result, err := c.Call(ctx, target, r)
	if err == nil {
		t.Fatalf("the call went well: %+v", result)
	}
	var f *worker.Failure
	if !errors.As(err, &f) {
		t.Fatalf("the error is no *Failure but %T", err)
	}
	return f
}
