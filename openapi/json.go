package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// jsonFormat is how bodies are read and written.
var jsonFormat = huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshal}

// unmarshal reads JSON that came from outside. It refuses text that Postgres would refuse, and says where a mistake is
// without naming the Go types that it met there.
func unmarshal(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("the JSON is not UTF-8 text")
	}
	if hasNUL(data) {
		return errors.New(`the JSON has the character \u0000 in a string, which cannot be stored`)
	}
	err := json.Unmarshal(data, v)
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		line, column := position(data, syntax.Offset)
		return fmt.Errorf("line %d, column %d: %s", line, column, syntax.Error())
	case errors.As(err, &mismatch):
		line, column := position(data, mismatch.Offset)
		return fmt.Errorf("line %d, column %d: this %s does not fit", line, column, mismatch.Value)
	}
	return err
}

// hasNUL looks for the escape \u0000. A backslash before it that is itself escaped makes it plain text.
func hasNUL(data []byte) bool {
	for {
		i := bytes.IndexByte(data, '\\')
		if i < 0 || i+1 >= len(data) {
			return false
		}
		if bytes.HasPrefix(data[i+1:], []byte("u0000")) {
			return true
		}
		data = data[i+2:]
	}
}

// position turns the offset after the last byte that was read into a line and a column, both from 1.
func position(data []byte, offset int64) (line, column int) {
	read := data[:min(max(offset, 0), int64(len(data)))]
	line = 1 + bytes.Count(read, []byte("\n"))
	return line, max(1, len(read)-1-bytes.LastIndexByte(read, '\n'))
}
