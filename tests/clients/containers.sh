# Sourced by buildah.sh and podman.sh: their storage in the scratch folder, on the driver that needs nothing of the kernel.
storage() {
  export CONTAINERS_STORAGE_CONF=$W/storage.conf CONTAINERS_CONF=$W/containers.conf CONTAINERS_REGISTRIES_CONF=$W/registries.conf
  printf '[storage]\ndriver = "vfs"\ngraphroot = "%s"\nrunroot = "%s"\n' "$W/graph" "$W/run/containers" >"$CONTAINERS_STORAGE_CONF"
  printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n' >"$CONTAINERS_CONF"
  # Nothing is looked for anywhere else.
  printf 'unqualified-search-registries = []\n[[registry]]\nlocation = "%s"\ninsecure = true\n' "$HOST" >"$CONTAINERS_REGISTRIES_CONF"
  for arch in amd64 arm64; do
    mkdir -p "$W/context/$arch"
    echo "built for $arch" >"$W/context/$arch/which"
  done
}
