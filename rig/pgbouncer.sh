#!/bin/sh
# Unpack PgBouncer 1.18 and 1.24, each with the libraries it needs, into build/pgbouncer-*; nothing is installed.
#
# The packages are those of two Debian releases, from the mirror that this machine's apt has, with lists of our own. Where
# that cannot be, build/pgbouncer-*/missing says why: the tests print it, and do without. $1: the folder (build).
build=${1:-build}
mkdir -p "$build" && build=$(cd "$build" && pwd) || exit
keys=/usr/share/keyrings/debian-archive-keyring.gpg

# apt-get and apt-cache of that release alone.
apt() {
    command=$1
    shift
    timeout 120 "apt-$command" -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$work/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$work/cache" \
        -o APT::Sandbox::User="$(id -un)" -o APT::Get::List-Cleanup=0 -o Acquire::Languages=none \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Acquire::Retries=2 -o Acquire::http::Timeout=20 "$@"
}

# pgbouncer, and from there on only libraries: the rest of what a package depends on serves its installation.
packages() {
    found=pgbouncer
    todo=pgbouncer
    while [ "$todo" ]; do
        more=$(apt cache depends $todo | sed -n -E 's/^ *\|?(Pre)?Depends: (lib[^: ]*|zlib1g)$/\2/p' | sort -u)
        todo=
        for name in $more; do
            case " $found " in *" $name "*) ;; *) todo="$todo $name" && found="$found $name" ;; esac
        done
    done
    echo "$found"
}

# $1: the release's name. Leaves the unpacked files and a command `pgbouncer` in $folder.
unpack() {
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || { echo "this machine has no apt" && return 1; }
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
    [ "$mirror" ] || { echo "this machine's apt has no mirror" && return 1; }
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/files"
    echo "deb [signed-by=$keys] $mirror $1 main" >"$work/sources.list"
    apt get update && (cd "$work/cache" && apt get download $(packages)) || return
    for package in "$work"/cache/*.deb; do
        dpkg -x "$package" "$work/files" || return
    done
    loader=$(cd "$work/files" && find . -name 'ld-linux*.so*' | head -n 1)
    [ "$loader" ] && [ -x "$work/files/usr/sbin/pgbouncer" ] || { echo "the packages lack a file" && return 1; }
    cat >"$work/pgbouncer" <<END
#!/bin/sh
here=\$(dirname "\$0")
libraries=\$(find "\$here/files" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
exec "\$here/files/$loader" --library-path "\$libraries" "\$here/files/usr/sbin/pgbouncer" "\$@"
END
    chmod 755 "$work/pgbouncer" && "$work/pgbouncer" --version || return
    rm -rf "$work/lists" "$work/cache" "$work/sources.list" && rm -rf "$folder" && mv "$work" "$folder"
}

for line in 1.18:bookworm 1.24:trixie; do
    folder=$build/pgbouncer-${line%%:*}
    [ ! -x "$folder/pgbouncer" ] || continue
    work=$folder.new
    rm -rf "$work" && mkdir -p "$work"
    if ! said=$(unpack "${line##*:}" 2>&1); then
        mkdir -p "$folder"
        echo "PgBouncer ${line%%:*} cannot be had here: $(echo "$said" | grep -v '^$' | tail -n 3)" | tee "$folder/missing"
        rm -rf "$work"
    fi
done
