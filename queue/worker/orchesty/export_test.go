package orchesty

import (
	"io"
	"net/http"

	"sluice/queue/worker"
)

// Envelope is what a call with these headers and this body sends: as it is sent,
// and how long it says that that is.
func Envelope(headers map[string]string, body []byte) (io.Reader, int64, error) {
	all := make(map[string]any, len(headers))
	for name, value := range headers {
		all[name] = value
	}
	e, err := newEnvelope(all, body)
	return e.reader(), e.size(), err
}

// Read is what the client makes of a reply to a request.
func Read(target worker.Target, request worker.Request, status int, body []byte) (worker.Reply, *worker.Failure) {
	m, err := newMessage(target, request)
	if err != nil {
		return worker.Reply{}, unsendable(err)
	}
	return m.read(worker.Answer{Status: status, Header: http.Header{}, Body: body}, 100)
}

// Listed is what the client makes of lists that a worker gives.
func Listed(nodes, applications []byte) (worker.Listing, error) {
	var l worker.Listing
	var err error
	if l.Nodes, err = parseNodes(nodes, kindCustom); err != nil {
		return l, err
	}
	l.Applications, err = parseApplications(applications)
	return l, err
}

// Sent are the headers that a request is sent with.
func Sent(target worker.Target, request worker.Request) (map[string]any, error) {
	m, err := newMessage(target, request)
	if err != nil {
		return nil, err
	}
	return m.outgoing(), nil
}

// ProcessID and StartedAt are ids and what they tell.
var (
	ProcessID = processID
	StartedAt = startedAt
)
