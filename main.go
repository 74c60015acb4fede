// Command orch is a whole Kubernetes-compatible cluster: see README.md for the map of the tree.
package main

func main() {}
