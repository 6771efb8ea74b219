//go:build !linux

package harness

import "syscall"

// dieWithParent is Linux's alone; elsewhere a test that timed out can leave a server behind.
func dieWithParent() *syscall.SysProcAttr { return nil }
