package harness

import "syscall"

// dieWithParent makes the kernel end the server when the test process dies, so that a test that timed out leaves
// no server behind.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
