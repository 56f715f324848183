// Package topology holds what should happen: graphs of nodes, in versions.
//
// A graph is written by people, in a YAML or JSON file that lives in their
// repository, so reading it is strict and talkative: [Parse] names every mistake
// by file, line and node, and says how to mend it. What it lets through is sound:
// every follower exists, every node can be reached from a start node, and no
// message can go round for ever. A published version never changes, so a graph
// that was read once may be kept for ever.
//
// The package knows nothing of queues, messages or HTTP. Whether a worker is
// registered is only known to the server, which asks [CheckWorkers].
package topology
