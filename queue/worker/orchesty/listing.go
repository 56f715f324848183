package orchesty

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"

	"sluice/queue/worker"
)

// What a listing may hold.
const (
	maxListed     = 10_000 // nodes of a kind, or applications
	maxListedName = 255    // bytes
	listTimeout   = 10 * time.Second
)

// List asks a worker what it has. Since workers have no route for their health,
// it also tells whether one lives. The error is always a [*worker.Failure].
func (c *Client) List(ctx context.Context, target worker.Target) (worker.Listing, error) {
	l := worker.Listing{Nodes: []worker.ListedNode{}, Applications: []worker.ListedApplication{}}
	deadline := time.Now().Add(listTimeout)
	for _, from := range []struct{ path, kind string }{{"connector/list", kindConnector}, {"batch/list", kindBatch}, {"custom-node/list", kindCustom}} {
		body, err := c.get(ctx, target, from.path, deadline)
		if err != nil {
			return worker.Listing{}, err
		}
		nodes, err := parseNodes(body, from.kind)
		if err != nil {
			return worker.Listing{}, notListed(target, from.path, err)
		}
		l.Nodes = append(l.Nodes, nodes...)
	}
	const applications = "applications"
	body, err := c.get(ctx, target, applications, deadline)
	if err != nil {
		return worker.Listing{}, err
	}
	if l.Applications, err = parseApplications(body); err != nil {
		return worker.Listing{}, notListed(target, applications, err)
	}
	return l, nil
}

func (c *Client) get(ctx context.Context, target worker.Target, path string, deadline time.Time) ([]byte, error) {
	answer, err := c.http.Post(ctx, target, worker.Post{
		Method: http.MethodGet, Path: path, Deadline: deadline, Replies: func(int) bool { return false },
	})
	if answer.Room != nil {
		answer.Room.Release()
	}
	return answer.Body, err
}

func notListed(target worker.Target, path string, err error) *worker.Failure {
	return &worker.Failure{
		Class: worker.Transient, Status: http.StatusOK,
		Reason: worker.Clean(fmt.Sprintf("worker %s answers %s, but not as an Orchesty worker does: %s", target.Name, path, err)),
		Err:    fmt.Errorf("%w: %w", worker.ErrProtocol, err),
	}
}

func parseNodes(body []byte, kind string) ([]worker.ListedNode, error) {
	var listed []struct {
		Name string `json:"name"`
		App  string `json:"app"`
	}
	if err := json.Unmarshal(body, &listed); err != nil || listed == nil {
		return nil, errors.New("want a list of nodes")
	}
	if len(listed) > maxListed {
		return nil, fmt.Errorf("%d nodes, more than %d", len(listed), maxListed)
	}
	nodes := make([]worker.ListedNode, len(listed))
	for i, l := range listed {
		if err := errors.Join(checkListed(l.Name), checkKey(l.App)); err != nil {
			return nil, err
		}
		nodes[i] = worker.ListedNode{Kind: kind, Name: l.Name, Application: l.App}
	}
	return nodes, nil
}

func parseApplications(body []byte) ([]worker.ListedApplication, error) {
	var listed struct {
		Items []struct {
			Key           string `json:"key"`
			Name          string `json:"name"`
			Description   string `json:"description"`
			Authorization string `json:"authorization_type"`
			Type          string `json:"application_type"`
			Installable   bool   `json:"isInstallable"`
		} `json:"items"`
	}
	if err := json.Unmarshal(body, &listed); err != nil || listed.Items == nil {
		return nil, errors.New("want a list of applications")
	}
	if len(listed.Items) > maxListed {
		return nil, fmt.Errorf("%d applications, more than %d", len(listed.Items), maxListed)
	}
	applications := make([]worker.ListedApplication, len(listed.Items))
	for i, l := range listed.Items {
		if err := checkListed(l.Key); err != nil {
			return nil, err
		}
		applications[i] = worker.ListedApplication{
			Key: l.Key, Name: worker.Clean(l.Name), Description: worker.Clean(l.Description),
			Authorization: worker.Clean(l.Authorization), Type: worker.Clean(l.Type), Installable: l.Installable,
		}
	}
	return applications, nil
}

// checkListed refuses names by which nothing could be called, or shown.
func checkListed(name string) error {
	if name == "" {
		return errors.New("an empty name")
	}
	return checkKey(name)
}

func checkKey(name string) error {
	if len(name) > maxListedName || name != worker.Clean(name) || !utf8.ValidString(name) {
		return fmt.Errorf("the name %.80q is longer than %d bytes, or cannot be shown", name, maxListedName)
	}
	return nil
}
