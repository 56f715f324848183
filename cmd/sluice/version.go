package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// release is the version of this program; a release sets it with -ldflags "-X main.release=v1.2.3".
var release string

// version is the release, or where this build came from.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "dev"
	}
	return info.Main.Version
}

type versionCmd struct{}

func (versionCmd) Help() string {
	return examples("", "sluice version", "sluice version --output json")
}

func (versionCmd) Run(p *program) error {
	v := map[string]string{"version": version(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
	return p.print(v, func(w io.Writer) { fmt.Fprintf(w, "sluice %s (%s, %s)\n", v["version"], v["go"], v["platform"]) })
}
