package main

import (
	"context"
	"fmt"
	"os"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"
)

// registryCredentials answers the daemon's question for a registry's user and
// password from Docker's configuration file and its credential helpers. The
// calls it leaves unimplemented make the daemon fetch tokens itself.
type registryCredentials struct {
	auth.UnimplementedAuthServer
	config *configfile.ConfigFile
}

// dockerHub is asked for under its registry's host, but filed under an URL.
const (
	dockerHubHost = "registry-1.docker.io"
	dockerHubKey  = "https://index.docker.io/v1/"
)

func newRegistryCredentials() *registryCredentials {
	return &registryCredentials{config: dockerconfig.LoadDefaultConfigFile(os.Stderr)}
}

// Register makes it a session.Attachable.
func (r *registryCredentials) Register(server *grpc.Server) { auth.RegisterAuthServer(server, r) }

// Credentials returns empty ones for a registry that the file does not know.
func (r *registryCredentials) Credentials(_ context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	key := req.Host
	if key == dockerHubHost {
		key = dockerHubKey
	}
	found, err := r.config.GetAuthConfig(key)
	if err != nil {
		return nil, fmt.Errorf("look up credentials of registry %q: %w", req.Host, err)
	}
	if found.IdentityToken != "" {
		return &auth.CredentialsResponse{Secret: found.IdentityToken}, nil
	}
	return &auth.CredentialsResponse{Username: found.Username, Secret: found.Password}, nil
}
