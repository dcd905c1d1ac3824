// A CNI client on libcni, the specification's own library: the only client that sends CHECK.
//
//	cni_client add|check|del|validate CONFIGURATION NETNS CONTAINER INTERFACE
//
// CNI_PATH has the directories of the plugins, CNI_ARGS the arguments, CNI_CACHE the directory for results.
// Prints the result of add, or the capabilities that validate finds; errors go to standard error.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(command, configuration string, attachment []string) error {
	list, err := libcni.ConfListFromFile(configuration)
	if err != nil {
		return err
	}
	ctx := context.Background()
	client := libcni.NewCNIConfigWithCacheDir(filepath.SplitList(os.Getenv("CNI_PATH")), os.Getenv("CNI_CACHE"), nil)
	runtime := &libcni.RuntimeConf{
		NetNS: attachment[0], ContainerID: attachment[1], IfName: attachment[2], Args: arguments(os.Getenv("CNI_ARGS")),
	}
	switch command {
	case "add":
		result, err := client.AddNetworkList(ctx, list, runtime)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(result)
	case "check":
		return client.CheckNetworkList(ctx, list, runtime)
	case "del":
		return client.DelNetworkList(ctx, list, runtime)
	case "validate":
		capabilities, err := client.ValidateNetworkList(ctx, list)
		fmt.Println(capabilities)
		return err
	}
	return fmt.Errorf("no such command: %s", command)
}

// arguments splits "NAME=VALUE;NAME=VALUE".
func arguments(text string) [][2]string {
	var pairs [][2]string
	for _, pair := range strings.Split(text, ";") {
		if name, value, found := strings.Cut(pair, "="); found {
			pairs = append(pairs, [2]string{name, value})
		}
	}
	return pairs
}
