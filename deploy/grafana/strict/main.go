// Command strict reads a dashboard as Grafana's own types have it: unknown fields and missing ones are errors.
package main

import (
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	content, err := os.ReadFile(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "strict:", err)
		os.Exit(1)
	}
	// Without these the options of panels and the queries are any JSON.
	plugins.RegisterDefaultPlugins()
	var board dashboard.Dashboard
	// An error without a text is an empty list of errors.
	if err := board.UnmarshalJSONStrict(content); err != nil && err.Error() != "" {
		fmt.Fprintln(os.Stderr, "strict:", err)
		os.Exit(1)
	}
	fmt.Printf("%s: Grafana's types take it\n", os.Args[1])
}
