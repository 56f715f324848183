// Package process reads what happened: the processes that events set off, the messages that moved through them, and
// the attempts that nodes made at each.
//
// It only reads. The rows are written by package queue, in the statement that moves the message, so what is read here
// is never ahead of or behind what was done. Where a message is follows from its one ticket: a job on its edge, an
// entry in the trash, or neither, when it is settled. A process's state follows from its counters and is stored nowhere.
package process

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrNotFound is returned for a process or message that does not exist, or not for this tenant.
var ErrNotFound = errors.New("not found")

// DB is a pool or a transaction.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// MessageID names a message: its process, and its number, which is also its job's.
type MessageID struct {
	Process uuid.UUID
	Number  int64
}

// String is the public form, <correlation id>-<number>. It is unique everywhere, so it serves workers as the
// idempotency key, and says where the message lies, so that looking it up needs no index of its own.
func (m MessageID) String() string {
	return m.Process.String() + "-" + strconv.FormatInt(m.Number, 10)
}

// MarshalText returns the public form.
func (m MessageID) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the public form.
func (m *MessageID) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMessageID(string(text))
	return err
}

// ParseMessageID reads the public form, and no other.
func ParseMessageID(s string) (MessageID, error) {
	const uuidLen = 36
	bad := fmt.Errorf("%q is no message id: want <correlation id>-<number>", s)
	if len(s) < uuidLen+2 || s[uuidLen] != '-' {
		return MessageID{}, bad
	}
	id, err := ParseCorrelationID(s[:uuidLen])
	if err != nil {
		return MessageID{}, bad
	}
	n, err := strconv.ParseInt(s[uuidLen+1:], 10, 64)
	if err != nil || n <= 0 || s[uuidLen+1] == '0' || s[uuidLen+1] == '+' {
		return MessageID{}, bad
	}
	return MessageID{Process: id, Number: n}, nil
}

// ParseCorrelationID reads a correlation id in its one form: lower case, with dashes.
func ParseCorrelationID(s string) (uuid.UUID, error) {
	id, err := uuid.Parse(s)
	if err != nil || len(s) != 36 || strings.ToLower(s) != s {
		return uuid.UUID{}, fmt.Errorf("%q is no correlation id", s)
	}
	return id, nil
}
