package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"sluice/cmd/sluice/bench"
)

// cli is the command line. A setting that may also come from the environment says so in its tag: from names the
// variable, and secret that the same name with _FILE may name a file that holds it.
type cli struct {
	Output string `short:"o" enum:"text,json" default:"text" help:"How results are printed: text or json."`

	Dev     devCmd     `cmd:"" group:"run" help:"Run everything on this machine, with a demo."`
	Serve   serveCmd   `cmd:"" group:"run" help:"Run a node: the gateway, the runner, or both."`
	Agent   agentCmd   `cmd:"" group:"run" help:"Carry calls to a worker that cannot be reached."`
	Migrate migrateCmd `cmd:"" group:"run" help:"Bring a database to the schema of this program, or back."`

	Secrets secretsCmd `cmd:"" group:"run" help:"Seal the secrets in a database."`

	Topology    topologyCmd    `cmd:"" group:"use" help:"Apply, publish and look at topologies."`
	Send        sendCmd        `cmd:"" group:"use" help:"Send an event to a start node."`
	Process     processCmd     `cmd:"" group:"use" help:"See what events set off."`
	Trace       traceCmd       `cmd:"" group:"use" help:"Tell the history of an order, or of whatever topologies declare."`
	Stats       statsCmd       `cmd:"" group:"use" help:"Tell what happened, what is wrong, and why."`
	Trash       trashCmd       `cmd:"" group:"use" help:"Decide about messages that failed."`
	Limits      limitsCmd      `cmd:"" group:"use" help:"See and say what applications allow."`
	Application applicationCmd `cmd:"" group:"use" help:"Install, set up and authorize what connectors talk to."`
	Worker      workerCmd      `cmd:"" group:"use" help:"Register the services that do the work."`
	Key         keyCmd         `cmd:"" group:"use" help:"Make and revoke API keys."`
	Operator    operatorCmd    `cmd:"" group:"use" help:"Say who may sign in at the screens."`

	Check   checkCmd   `cmd:"" group:"prove" help:"Prove that no message is lost, on a live database."`
	Bench   benchCmd   `cmd:"" group:"prove" help:"Measure the engine against what it stands on."`
	Openapi openapiCmd `cmd:"" group:"prove" help:"Print the contracts: of the API, of workers, of topology files."`
	Version versionCmd `cmd:"" group:"prove" help:"Print the version of this program."`
}

const description = `Sluice takes events in over HTTP and moves them through your topologies to your workers, and loses none.

Begin with one of:

    sluice dev
    sluice serve --database-url postgres://sluice@db/sluice
    sluice topology list`

func newParser(c *cli, p *program, exit func(int)) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("sluice"),
		kong.Description(description),
		kong.Writers(p.stdout, p.stderr),
		kong.Exit(exit),
		kong.Bind(p),
		kong.BindToProvider(func() (*client, error) { return p.api.client(p) }),
		kong.Resolvers(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
			return p.setting(flag.Tag)
		})),
		kong.Vars{"url": defaultURL, "tenant": defaultTenant, "scenarios": strings.Join(bench.Names(), ", ")},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.ValueFormatter(helpOf),
		kong.ExplicitGroups([]kong.Group{
			{Key: "run", Title: "Run Sluice:"},
			{Key: "use", Title: "Use it:"},
			{Key: "prove", Title: "Prove and describe:"},
			{Key: "filter", Title: "Which messages:"},
			{Key: "url", Title: "Of a worker that is called at its URL:"},
			{Key: "api", Title: "Where Sluice is:"},
			{Key: "direct", Title: "Without an API key:"},
		}),
	)
}

// setting reads from the environment what a flag's tag says, or nil.
func (p *program) setting(tag *kong.Tag) (any, error) {
	name := tag.Get("from")
	if name == "" {
		return nil, nil
	}
	value := p.getenv(name)
	if tag.Has("secret") {
		var err error
		if value, err = p.secret(name); err != nil {
			return nil, err
		}
	}
	if value == "" {
		return nil, nil
	}
	return value, nil
}

// secret reads a variable, or else the file that the same name with _FILE names.
func (p *program) secret(name string) (string, error) {
	path := p.getenv(name + "_FILE")
	if value := p.getenv(name); value != "" || path == "" {
		return value, nil
	}
	value, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	return strings.TrimSpace(string(value)), nil
}

// helpOf is a flag's help with the variable that it may come from.
func helpOf(value *kong.Value) string {
	name := value.Tag.Get("from")
	if name == "" {
		return value.Help
	}
	if value.Tag.Has("secret") {
		name += " or " + name + "_FILE"
	}
	return strings.TrimSuffix(value.Help, ".") + " (" + name + ")."
}

// examples is the detailed help of a command: what it is good for, and lines to try. Every command has some.
func examples(about string, commands ...string) string {
	var b strings.Builder
	if about != "" {
		b.WriteString(about + "\n\n")
	}
	b.WriteString("Examples:\n\n")
	for _, c := range commands {
		b.WriteString("    " + c + "\n")
	}
	return b.String()
}
