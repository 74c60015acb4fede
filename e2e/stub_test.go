package e2e

import "testing"

var containerTests = map[string]func(*testing.T, cluster){}
var podTests = map[string]func(*testing.T, cluster){}
var serviceTests = map[string]func(*testing.T, cluster){}
var nodeTests = map[string]func(*testing.T, cluster){}
