package orchesty

import (
	"encoding/json"
	"errors"
	"maps"
)

// state is what a message that is called again carries from call to call. It
// travels as the cursor of a reply, which the engine keeps for the message.
type state struct {
	// Cursor is the worker's, of a batch.
	Cursor *string `json:"cursor,omitempty"`
	// Headers are the message's now, where a worker has changed them.
	Headers map[string]string `json:"headers,omitzero"`
	// Hops is the number of the call that is to come, of MaxHops at most, Interval
	// seconds apart; 0: it is no repeat.
	Hops     int `json:"hops,omitempty"`
	MaxHops  int `json:"max_hops,omitempty"`
	Interval int `json:"interval,omitempty"`
	// Attempt is the one that asked for the repeat. A message that is sent again
	// from the trash counts its attempts anew, and so its hops.
	Attempt int `json:"attempt,omitempty"`
}

// maxState bounds what is kept of a message. Headers are bounded as any message's
// are, so this is about the cursor.
const maxState = 64 << 10

var errState = errors.New("its cursor is not one that an Orchesty worker has given")

func decodeState(cursor string) (state, error) {
	var s state
	if cursor == "" {
		return s, nil
	}
	if err := json.Unmarshal([]byte(cursor), &s); err != nil {
		return state{}, errState
	}
	return s, nil
}

// encode writes a state as a cursor. Headers that are still the request's are
// left out.
func (s state) encode(request map[string]string) (string, error) {
	if maps.Equal(s.Headers, request) {
		s.Headers = nil
	} else if s.Headers == nil {
		s.Headers = map[string]string{}
	}
	b, err := json.Marshal(s)
	if err == nil && len(b) > maxState {
		err = errors.New("its cursor and headers are longer than 64 KiB")
	}
	return string(b), err
}

// hops is the number of this call among the repeats, 0 if it is none.
func (m *message) hops() int {
	if m.state.Attempt > 0 && m.request.Attempt <= m.state.Attempt {
		return 0
	}
	return m.state.Hops
}
