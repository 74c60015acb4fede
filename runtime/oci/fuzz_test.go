package oci

import "testing"

// FuzzAccounts: tables of an image are read line by line; what makes no sense is left out.
func FuzzAccounts(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/sh\n# c\nbad\na:x:4294967296:1\n"), []byte("g:x:5:a,b\n:::\n"))
	f.Fuzz(func(t *testing.T, passwd, groups []byte) {
		in := Input{ReadFile: func(path string) ([]byte, error) {
			return map[string][]byte{"/etc/passwd": passwd, "/etc/group": groups}[path], nil
		}}
		if _, err := readTable(in, "/etc/passwd", parseAccount); err != nil {
			t.Error(err)
		}
		if _, err := readTable(in, "/etc/group", parseGroup); err != nil {
			t.Error(err)
		}
	})
}
