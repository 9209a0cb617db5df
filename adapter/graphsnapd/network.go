package main

import (
	"fmt"
	"os"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/appdefaults"
	"github.com/moby/buildkit/util/network"
	"github.com/moby/buildkit/util/network/cniprovider"
)

type networkSettings struct {
	mode      string // auto, bridge, cni or host
	cniConfig string
	cniBin    string
	cniPool   int
}

// networkProviders returns the networks a build step may ask for, and the name
// of the one it gets when it asks for none. "auto" is CNI where a configuration
// exists, else the host's network, as in buildkitd.
func networkProviders(root string, set networkSettings) (map[pb.NetMode]network.Provider, string, error) {
	mode := set.mode
	if mode == "auto" {
		mode = "host"
		if _, err := os.Stat(set.cniConfig); err == nil {
			mode = "cni"
		}
	}
	opt := cniprovider.Opt{
		Root:         root,
		ConfigPath:   set.cniConfig,
		BinaryDir:    set.cniBin,
		PoolSize:     set.cniPool,
		BridgeName:   appdefaults.BridgeName,
		BridgeSubnet: appdefaults.BridgeSubnet,
	}
	var unset network.Provider
	var err error
	switch mode {
	case "host":
		unset = network.NewHostProvider()
	case "cni":
		unset, err = cniprovider.New(opt)
	case "bridge":
		mode = "cni" // what the worker's label says of it
		unset, err = cniprovider.NewBridge(opt)
	default:
		return nil, "", usagef("--oci-worker-net %q is none of auto, bridge, cni, host", set.mode)
	}
	if err != nil {
		return nil, "", fmt.Errorf("set up the %s network: %w", mode, err)
	}
	return map[pb.NetMode]network.Provider{
		pb.NetMode_UNSET: unset,
		pb.NetMode_HOST:  network.NewHostProvider(),
		pb.NetMode_NONE:  network.NewNoneProvider(),
	}, mode, nil
}
