package orchesty

import (
	"encoding/json"
	"maps"
	"strconv"
	"strings"

	"sluice/queue/worker"
)

// The headers that mean something between an Orchesty worker and its engine.
const (
	headerResultCode     = "result-code"
	headerResultMessage  = "result-message"
	headerForce          = "force-target-queue"
	headerCursor         = "cursor"
	headerRepeatHops     = "repeat-hops"
	headerRepeatMaxHops  = "repeat-max-hops"
	headerRepeatInterval = "repeat-interval"
	headerLimiterKey     = "limiter-key"
	headerUser           = "user"
	headerApplications   = "applications"
	headerContentType    = "content-type"
	headerCorrelationID  = "correlation-id"
	headerProcessID      = "process-id"
	headerParentID       = "parent-id"
	headerPreviousNode   = "previous-node-id"
	headerProcessStarted = "process-started"
	headerTopologyID     = "topology-id"
	headerNodeID         = "node-id"
	headerNodeName       = "node-name"
	headerFollowers      = "worker-followers"
	headerSDK            = "sdk"
	headerSource         = "source"
)

// verdicts are the headers in which a worker says what becomes of a message. One
// that came along with the message would be taken for this call's.
var verdicts = []string{headerResultCode, headerResultMessage, "result-detail", headerForce, "user-task-state"}

// ours are the headers that the engine sets for each call anew, or keeps for
// itself: whatever a reply has under these names is not the message's.
var ours = []string{
	headerCorrelationID, headerTopologyID, headerNodeID, headerNodeName, headerFollowers, headerProcessStarted, headerSDK, headerSource,
	headerRepeatHops, headerRepeatMaxHops, headerRepeatInterval, "repeat-queue",
	"limit-return-exchange", "limit-return-routing-key", "limit-message-from-limiter", "application", "system-event",
	"audit-entity", "audit-entity-ids", "audit-entity-fields", "audit-checkpoint",
}

// message is a message on its way to a worker, and what its reply is read by.
type message struct {
	request   worker.Request
	worker    string // for people
	dialect   string
	sdk       string            // the worker's name
	state     state             // from the calls before
	headers   map[string]string // the message's own, as of the last call
	nodeID    string
	processID string
	followers []follower
}

// follower is a node that follows, as workers are told of it.
type follower struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func newMessage(target worker.Target, r worker.Request) (*message, error) {
	m := &message{request: r, worker: "worker " + target.Name, dialect: target.Dialect, sdk: target.Name, headers: r.Headers}
	var err error
	if m.state, err = decodeState(r.Cursor); err != nil {
		return nil, err
	}
	if m.state.Headers != nil {
		m.headers = m.state.Headers
	}
	m.nodeID = NodeID(r.Topology, r.Version, r.Node)
	if m.processID = m.headers[headerProcessID]; m.processID == "" {
		m.processID = processID(r.MessageID)
	}
	m.followers = make([]follower, len(r.Followers))
	for i, name := range r.Followers {
		m.followers[i] = follower{NodeID(r.Topology, r.Version, name), name}
	}
	return m, nil
}

// outgoing are the headers of the call.
func (m *message) outgoing() map[string]any {
	r := m.request
	h := make(map[string]any, len(m.headers)+16)
	for name, value := range m.headers {
		h[name] = value
	}
	for _, name := range verdicts {
		delete(h, name)
	}
	for _, name := range ours {
		delete(h, name)
	}
	followers, _ := json.Marshal(m.followers) // structs of strings always encode
	h[headerCorrelationID] = r.CorrelationID
	h[headerProcessID] = m.processID
	h[headerParentID] = m.headers[headerParentID]
	h[headerTopologyID] = TopologyID(r.Topology, r.Version)
	h[headerNodeID] = m.nodeID
	h[headerFollowers] = string(followers)
	if _, found := m.headers[headerContentType]; !found {
		h[headerContentType] = "application/json"
	}
	if _, found := m.headers[headerApplications]; !found {
		h[headerApplications] = r.Application
	}
	if ms, known := startedAt(r.CorrelationID); known {
		h[headerProcessStarted] = number(strconv.FormatInt(ms, 10))
	}
	if m.dialect == worker.DialectB {
		h[headerNodeName], h[headerSDK], h[headerSource] = r.Node, m.sdk, "auto"
	}
	if m.state.Cursor != nil {
		h[headerCursor] = *m.state.Cursor
	}
	if hops := m.hops(); hops > 0 {
		h[headerRepeatHops] = strconv.Itoa(hops)
		h[headerRepeatMaxHops], h[headerRepeatInterval] = strconv.Itoa(m.state.MaxHops), strconv.Itoa(m.state.Interval)
	}
	return h
}

// own are the headers of a reply that are the message's: without the verdict and
// what the engine keeps, with what a worker must not lose.
func (m *message) own(reply map[string]string) map[string]string {
	own := maps.Clone(reply)
	if own == nil {
		own = map[string]string{}
	}
	for _, name := range verdicts {
		delete(own, name)
	}
	for _, name := range ours {
		delete(own, name)
	}
	for _, name := range []string{headerProcessID, headerParentID, headerPreviousNode} {
		delete(own, name) // told anew below
	}
	for _, name := range []string{headerUser, headerApplications} {
		value, had := m.headers[name]
		if _, has := own[name]; had && !has {
			own[name] = value
		}
	}
	if _, had := m.headers[headerApplications]; !had && own[headerApplications] == m.request.Application {
		delete(own, headerApplications) // it was told for this call
	}
	return own
}

// stays are the headers of a message that is to be called again.
func (m *message) stays(reply map[string]string) map[string]string {
	own := m.own(reply)
	delete(own, headerCursor)
	for _, name := range []string{headerProcessID, headerParentID, headerPreviousNode, headerCursor} {
		if value, had := m.request.Headers[name]; had {
			own[name] = value
		}
	}
	return own
}

// goesOn are the headers of a message that goes on to one follower, which takes
// over its branch of the process, or to several, which each begin their own.
func (m *message) goesOn(reply map[string]string, targets int) map[string]string {
	own := m.own(reply)
	own[headerPreviousNode] = m.nodeID
	if targets > 1 {
		own[headerParentID] = m.processID
		return own
	}
	own[headerProcessID] = m.processID
	if parent := m.headers[headerParentID]; parent != "" {
		own[headerParentID] = parent
	}
	return own
}

// item are the headers of an item of a batch: its own over those of the reply.
func (m *message) item(reply, item map[string]string) map[string]string {
	both := make(map[string]string, len(reply)+len(item))
	maps.Copy(both, reply)
	delete(both, headerCursor)
	maps.Copy(both, item)
	return m.goesOn(both, 2)
}

// texts makes text of the values of headers, which may be any JSON. One that is
// null is left out.
func texts(headers map[string]json.RawMessage) (map[string]string, error) {
	all := make(map[string]string, len(headers))
	for name, raw := range headers {
		switch raw[0] {
		case 'n':
		case '"':
			var text string
			if err := json.Unmarshal(raw, &text); err != nil {
				return nil, err
			}
			all[name] = text
		default:
			all[name] = strings.TrimSpace(string(raw))
		}
	}
	return all, nil
}
