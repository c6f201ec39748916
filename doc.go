// SPDX-License-Identifier: Apache-2.0

// Package imgfs mounts container images as directories straight from their
// layer tars. It is the façade over the other packages: one method a verb. It
// prints nothing and knows no flags.
package imgfs
