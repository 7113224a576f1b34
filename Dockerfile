# planproof with the PostgreSQL that it brings. Every step but apt's is a script that the tests run on a bare machine.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# Text is compared as your servers compare it, where their locale is known here.
ARG LOCALES="en_US.UTF-8"
# Debian's stable releases keep one version of it.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends locales \
 && rm -rf /var/lib/apt/lists/* \
 && for locale in $LOCALES; do localedef -i "${locale%.UTF-8}" -f UTF-8 "$locale"; done
WORKDIR /src
COPY . .
ARG EXTRA=telemetry
RUN deploy/install.sh /opt/planproof "$EXTRA"

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="planproof" \
      org.opencontainers.image.description="PostgreSQL query advice that carries its proof" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /var/lib/planproof planproof \
 && install --directory --owner=planproof --group=planproof --mode=0700 /var/lib/planproof
COPY --from=build /usr/lib/locale/locale-archive /usr/lib/locale/
COPY --from=build /opt/planproof /opt/planproof
ENV PATH=/opt/planproof/bin:$PATH \
    PLANPROOF_HOME=/var/lib/planproof
# PostgreSQL refuses root; as a number, so that Kubernetes sees that it is not root.
USER 10001:10001
VOLUME /var/lib/planproof
EXPOSE 8432
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["planproof-healthcheck"]
ENTRYPOINT ["planproof"]
CMD ["serve", "--host", "0.0.0.0"]
