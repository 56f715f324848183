package orchesty

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Orchesty's ids of topologies and nodes are 24 hex digits. Ours are made of
// names, so that a version has the same on every node of Sluice and nothing need
// be stored.

// TopologyID is the id of a version of a topology, as workers know it.
func TopologyID(topology string, version int) string {
	return shortHash("topology", topology, strconv.Itoa(version))
}

// NodeID is the id of a node of a version, as workers know it.
func NodeID(topology string, version int, node string) string {
	return shortHash("node", topology, strconv.Itoa(version), node)
}

func shortHash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:12])
}

// processID is the id of a branch of a process that begins with a message: a
// UUID of version 8, which is free for such use.
func processID(messageID string) string {
	sum := sha256.Sum256([]byte("process\x00" + messageID))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// startedAt is when a process started, in milliseconds since 1970: its
// correlation id is a UUID of version 7, which begins with that.
func startedAt(correlationID string) (int64, bool) {
	if len(correlationID) != 36 || correlationID[14] != '7' {
		return 0, false
	}
	ms, err := strconv.ParseInt(correlationID[:8]+correlationID[9:13], 16, 64)
	return ms, err == nil
}
