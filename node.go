package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/spf13/pflag"

	"orch/server"
)

// nodeConfig is what a node's parts are made from.
type nodeConfig struct{}

func (c *nodeConfig) AddFlags(*pflag.FlagSet) {}

// agentPart is `orch agent`.
type agentPart struct {
	log *slog.Logger
}

func (a *agentPart) AddFlags(*pflag.FlagSet)       {}
func (a *agentPart) join(string) error             { return nil }
func (a *agentPart) Run(context.Context) error     { return errors.New("wip") }
func (s *serverPart) nodePart(*server.Server) (server.Part, error) { return server.Part{}, errors.New("wip") }
