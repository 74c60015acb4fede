// Package kubectltest holds tests only: the real kubectl, as its authors wrote
// it, against the API server on the memory store. It refuses to be imported.
package kubectltest
